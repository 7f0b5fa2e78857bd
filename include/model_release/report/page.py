"""The frame that every report shares: one HTML file with its styles and pictures inside, and no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_release.report import numbers

_DIGEST_LETTERS = 12


def write_page(template: str, path: Path, **facts: Any) -> None:
    """Render one of the templates beside this file and write it."""
    path.write_text(render_page(template, **facts), encoding="utf-8")


def render_page(template: str, **facts: Any) -> str:
    """
    Render one of the templates beside this file, which extend frame.html.j2.

    Every text is escaped, since names and messages come from users' models; a fact that is not given is an error, not a
    hole. Only pictures are markup: they come from `charts`, which escapes by itself.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("model_release.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numbers.figure,
        "whole": numbers.whole,
        "percent": numbers.percent,
        "cosine": numbers.cosine,
        "of_allowed": numbers.of_allowed,
        "size": numbers.size,
        "digest": lambda text: text[:_DIGEST_LETTERS],
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    rendered: str = environment.get_template(template).render(**facts)
    return rendered

"""parity.html: a parity report for a person who has to decide something by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_release.parity.report import PYTORCH, ParityReport
from model_release.report import charts

_TEMPLATE = "parity.html.j2"
_DIGEST_LETTERS = 12
_MB = 1e6
_NONE = "\N{EN DASH}"


def write_parity_page(report: ParityReport, path: Path) -> None:
    """
    Write a report as one HTML file that needs nothing else: styles and pictures are inside.

    The same report gives the same bytes. All texts are escaped: names and error messages come from users' models.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("model_release.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "whole": whole, "digest": lambda text: text[:_DIGEST_LETTERS]}
    outputs = [
        {"found": found, "histogram": charts.error_histogram(found), "worst": charts.worst_cases(found)}
        for found in report.outputs
    ]
    own = [row for row in report.batch_independence if row.provider == PYTORCH]
    page = environment.get_template(_TEMPLATE).render(
        report=report,
        outputs=outputs,
        dependent=[row for row in report.batch_independence if row.differing and row.provider != PYTORCH],
        module_dependent=any(row.differing for row in own),
        megabytes=report.onnx.size_bytes / _MB,
    )
    path.write_text(page, encoding="utf-8")


def figure(value: Any) -> str:
    """Return a number as people read it: three significant digits, a dash for none."""
    if value is None:
        return _NONE
    if value == 0:
        return "0"
    return f"{value:.3g}"


def whole(value: int) -> str:
    """Return a count with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")

"""docs/benchmark-measured.md: one section a show, each written by its own run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox.settings import ROOT

PAGE = ROOT / "docs" / "benchmark-measured.md"
_INTRO = """# Batching, tuning and routing, measured

Written by `make show-batching`, `make show-tuner`, `make show-router` and `make show-repeatability`; do not edit.
Everything runs on one machine, its load generator too, and other work may share it: read the ratios, which are of runs
by turns, and not the absolute numbers. The Triton is the sandbox's, whose ONNX Runtime backend is a Python one: each
execution costs it more than the backend of production, and each instance is a process.
"""


def say(text: str) -> None:
    """Write a line as it becomes known."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)]) + "\n"


def write_section(title: str, text: str, path: Path = PAGE) -> None:
    """Replace one section of the page, and leave the others as they are."""
    before = path.read_text() if path.exists() else _INTRO
    intro, *others = re.split(r"(?m)^(?=## )", before)
    sections = {each.splitlines()[0].removeprefix("## "): each for each in others}
    machine = f"Machine class: {os.cpu_count()} cores, no GPU.\n"
    sections[title] = f"## {title}\n\n{machine}\n{text.strip()}\n\n"
    path.write_text(
        (intro if others else _INTRO).rstrip() + "\n\n" + "\n\n".join(each.strip() for each in sections.values()) + "\n"
    )
    say(f"wrote {path}")

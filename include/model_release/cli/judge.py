"""`model-release judge`: the gates alone, on looks that were recorded or that arrive."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Output
from model_release.errors import LookUnusable
from model_release.gates.looks import Look
from model_release.gates.stream import judged
from model_release.spec import Canary
from model_release.spec_files import parse_section

_STDIN = Path("-")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(judge)


def judge(
    context: typer.Context,
    gates: Annotated[Path, typer.Option(help="YAML with the keys of `canary:`.", exists=True, dir_okay=False)],
    looks: Annotated[Path, typer.Option(help="One look a line, as JSON; '-' reads standard input.")],
    first_release: Annotated[bool, typer.Option(help="There is no stable: judge by the objectives.")] = False,
) -> None:
    """Judge looks: one verdict a line, as the looks arrive."""
    output: Output = context.obj
    if looks != _STDIN and not looks.is_file():
        message = f"there is no file {looks}"
        raise typer.BadParameter(message, param_hint="--looks")
    canary = parse_section(Canary, gates.read_text(encoding="utf-8") or "{}", str(gates))
    with nullcontext(sys.stdin) if looks == _STDIN else looks.open(encoding="utf-8") as stream:
        for verdict in judged(canary, _looks(stream), first_release=first_release):
            output.say(f"{verdict.t:8.1f} s  {verdict.stage:3d} %  {verdict.verdict:<12}  {escape(verdict.reason)}")
            output.give(verdict.to_dict())


def _looks(lines: Iterable[str]) -> Iterator[Look]:
    """Read one look a line; blank lines are left out. Raises LookUnusable, naming the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise LookUnusable(f"line {number} is no JSON ({error})") from None
        if not isinstance(values, dict):
            raise LookUnusable(f"line {number} is a {type(values).__name__}")
        yield Look.from_dict(values)

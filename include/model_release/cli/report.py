"""`model-release report`: what a release was asked, what happened, and every verdict, as a page or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_release.cli.output import Contract, Output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    version: Annotated[int | None, typer.Argument(help="Its newest release; by default the model's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page, or JSON if it ends in .json.")] = None,
    contract: Contract = None,
) -> None:
    """Write the report of a release, of one that runs too, to a file."""
    from model_release.report.release import assemble
    from model_release.repository.store import ObjectStore
    from model_release.steps.report import HTML, JSON, page_of

    output: Output = context.obj
    model = output.model(name, contract)
    found = assemble(ObjectStore(output.environment.s3), model, version=version)
    path = out or Path(f"{model}-{found.version}{HTML}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json(indent=1) if path.suffix == JSON else page_of(found), encoding="utf-8")
    output.say(f"version {found.version} of {model}: {found.outcome}{f' ({found.why})' if found.why else ''}")
    output.say(f"wrote {path}")
    output.give({"file": str(path), **found.model_dump(mode="json", exclude={"events", "stages", "parity"})})

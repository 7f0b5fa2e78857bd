"""`model-release`: exit code 0 for done, 1 for refused or failed, 2 for bad use."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from model_release.cli import (
    benchmark,
    decide,
    guard,
    judge,
    look,
    model,
    plan,
    proof,
    provenance,
    prune,
    release,
    report,
)
from model_release.cli.output import Output, error_line
from model_release.errors import ReleaseError, UnknownModel

app = typer.Typer(
    name="model-release",
    help="Release PyTorch models to NVIDIA Triton through a judged canary.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    context: typer.Context,
    configs: Annotated[Path, typer.Option(help="Folder of the model configs.", envvar="MODEL_RELEASE_CONFIGS")] = Path(
        "include/model_configs"
    ),
    environment: Annotated[
        Path | None, typer.Option(help="Environment file.", envvar="MODEL_RELEASE_ENVIRONMENT")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what the library does, on stderr.")] = False,
) -> None:
    """Set what every command shares."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)
    context.obj = Output(configs=configs, environment_file=environment, as_json=as_json)


model.register(app)
proof.register(app)
release.register(app)
look.register(app)
plan.register(app)
report.register(app)
decide.register(app)
judge.register(app)
guard.register(app)
provenance.register(app)
prune.register(app)
benchmark.register(app)


def main() -> None:
    """Run the command line."""
    # Factories are found beside the model configs' project, as they are in an Airflow worker.
    sys.path.insert(0, str(Path.cwd()))
    as_json = "--json" in sys.argv
    try:
        app(standalone_mode=True)
    except ReleaseError as error:
        error_line(error, as_json)
        sys.exit(2 if isinstance(error, UnknownModel) else 1)

"""Commands that say whose a version is: sign, import."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Contract, Output, new_run_id

Name = Annotated[str, typer.Argument(help="Model.")]
Version = Annotated[int, typer.Argument(help="A sealed version.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sign)
    app.command("import")(import_version)


def sign(context: typer.Context, name: Name, version: Version, contract: Contract = None) -> None:
    """Sign a version that is sealed already, after reading each of its bytes: who signs vouches for them."""
    from model_release.steps import sign as step

    output: Output = context.obj
    model = output.model(name, contract)
    result = step.run(model, version, output.environment, run_id=new_run_id("sign"), by=getpass.getuser())
    output.say(f"[green]ok[/green] version {version} of {name} is signed: {', '.join(result['signatures'])}")
    output.give(result)


def import_version(
    context: typer.Context,
    name: Name,
    version: Version,
    source: Annotated[Path, typer.Option("--from", help="Environment file of the place that sealed it.")],
    digest: Annotated[str, typer.Option(help="What 'verify' says of it there.")],
    contract: Contract = None,
) -> None:
    """Bring a sealed version from another environment's bucket, with its signatures, spec and history."""
    from model_release.environment import load_environment
    from model_release.steps import import_version as step

    output: Output = context.obj
    model, run_id = output.model(name, contract), new_run_id("import")
    done = step.run(
        model, version, digest, load_environment(source), output.environment, run_id=run_id, by=getpass.getuser()
    )
    what = f"{' and '.join(done['brought'])}, {done['way']}" if done["brought"] else "it was here already"
    output.say(f"[green]ok[/green] version {version} of {name} from {escape(done['origin'])}: {what}")
    if done["rejected_there"]:
        output.say(f"[yellow]note[/yellow] it was rejected there: {escape(done['rejected_there'])}")
    output.say(f"   to serve it: model-release rollback {name} --to {version} --reason '...'")
    output.give(done)

"""Commands that say whose a version is: sign."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from model_release.cli.output import Output, new_run_id

Name = Annotated[str, typer.Argument(help="Model.")]
Version = Annotated[int, typer.Argument(help="A sealed version.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sign)


def sign(context: typer.Context, name: Name, version: Version) -> None:
    """Sign a version that is sealed already, after reading each of its bytes: who signs vouches for them."""
    from model_release.steps import sign as step

    output: Output = context.obj
    model = output.spec(name).name
    result = step.run(model, version, output.environment, run_id=new_run_id("sign"), by=getpass.getuser())
    output.say(f"[green]ok[/green] version {version} of {name} is signed: {', '.join(result['signatures'])}")
    output.give(result)

"""`guard`: the process that returns canaries whose release has died."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Output
from model_release.errors import ReleaseError

if TYPE_CHECKING:
    from model_release.steps.guard import Round


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(guard)


def guard(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One look at every model; exit code 1 if one failed.")] = False,
    every_s: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 30,
) -> None:
    """Return canaries to 0 whose release has died; without --once, until it is told to stop."""
    from model_release.steps import guard as step

    output: Output = context.obj
    environment = output.environment
    if once:
        done = step.run(environment)
        _tell(output, done)
        output.give(asdict(done))
        raise typer.Exit(1 if done.problems else 0)
    stop = threading.Event()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stop.set())
    output.say(f"a look every {every_s:g} s")
    while not stop.is_set():
        try:
            _tell(output, step.run(environment))
        except ReleaseError as error:
            # It stays: a guard that ended with the store would be missing when the store is back.
            output.say(f"[red]problem[/red] {escape(str(error))}")
        stop.wait(every_s)


def _tell(output: Output, done: Round) -> None:
    for each in done.returned:
        text = f"the canary {each['version']} of {each['model']}: {each['reason']}"
        output.say(f"[yellow]returned[/yellow] {escape(text)}")
    for problem in done.problems:
        output.say(f"[red]problem[/red] {escape(problem)}")

"""`guard`: the process that returns canaries whose release has died, and heals what serves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Output
from model_release.errors import ReleaseError

if TYPE_CHECKING:
    from model_release.steps.guard import Round

_LAST_WORDS_S = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(guard)


def guard(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Models; all of the ledger without a name.")] = None,
    once: Annotated[bool, typer.Option("--once", help="One look at every model; exit code 1 if one failed.")] = False,
    every_s: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 30,
) -> None:
    """Return canaries whose release has died, and heal what serves; without --once, until it is told to stop."""
    from model_release.steps import guard as step

    output: Output = context.obj
    environment, models = output.environment, names or []
    if once:
        done = step.run(environment, models)
        _tell(output, done)
        output.give(asdict(done))
        raise typer.Exit(1 if done.problems else 0)
    stop = threading.Event()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stop.set())
    output.say(f"a look every {every_s:g} s")
    # Two loops: no canary waits for a load that hangs. What is cut off when they stop is done by the next guard.
    duties = [lambda: step.return_orphans(environment, models), lambda: step.heal_all(environment, models)]
    broken: list[BaseException] = []
    loops = [threading.Thread(target=_loop, args=(output, duty, stop, every_s, broken), daemon=True) for duty in duties]
    for loop in loops:
        loop.start()
    stop.wait()
    for loop in loops:
        loop.join(_LAST_WORDS_S)
    if broken:
        raise broken[0]


def _loop(
    output: Output, duty: Callable[[], Round], stop: threading.Event, every_s: float, broken: list[BaseException]
) -> None:
    """Look until `stop`; what is no problem of a model or of the store ends both loops, for a supervisor to see."""
    try:
        while not stop.is_set():
            try:
                _tell(output, duty())
            except ReleaseError as error:
                # It stays: a guard that ended with the store would be missing when the store is back.
                output.say(f"[red]problem[/red] {escape(str(error))}")
            stop.wait(every_s)
    except BaseException as error:
        broken.append(error)
        stop.set()


def _tell(output: Output, done: Round) -> None:
    for each in done.returned:
        text = f"the canary {each['version']} of {each['model']}: {each['reason']}"
        output.say(f"[yellow]returned[/yellow] {escape(text)}")
    for each in done.healed:
        output.say(f"[yellow]healed[/yellow] {escape(each['model'])}: {escape(each['act'])}")
    for problem in done.problems:
        output.say(f"[red]problem[/red] {escape(problem)}")

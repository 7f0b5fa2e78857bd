"""Commands of a person who is asked: approve, extend, abort."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Contract, Output, new_run_id
from model_release.errors import NothingToDecide
from model_release.identity import Kind, Release

Name = Annotated[str, typer.Argument(help="Model.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the ledger.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(approve)
    app.command()(extend)
    app.command()(abort)


def approve(context: typer.Context, name: Name, reason: Reason, contract: Contract = None) -> None:
    """Say yes: a stage that is held advances, and a release that waits for an approval goes on."""
    _decide(context.obj, name, contract, "advance", reason)


def extend(
    context: typer.Context,
    name: Name,
    seconds: Annotated[float, typer.Option(min=1, help="How much longer to wait.")],
    reason: Reason,
    contract: Contract = None,
) -> None:
    """Let a stage that is held, or an approval, wait longer for an answer."""
    _decide(context.obj, name, contract, "extend", reason, seconds)


def abort(context: typer.Context, name: Name, reason: Reason, contract: Contract = None) -> None:
    """End the release: a live canary goes back at once and is rejected; an approval that is waited for is a no."""
    from model_release.ledger.state import StateFile
    from model_release.repository.store import ObjectStore
    from model_release.steps import abort as step
    from model_release.steps import notify

    output: Output = context.obj
    model = output.model(name, contract)
    canary = StateFile(ObjectStore(output.environment.s3), model).read().canary
    if canary is None:
        try:
            _decide(output, name, contract, "roll_back", reason)
        except NothingToDecide as error:
            raise NothingToDecide(model, "it has no canary, and no approval is waited for") from error
        return
    asked = Release(model, canary.version, Kind.RESTORE, new_run_id("abort"), reason=reason, by=getpass.getuser())
    result = step.run(asked, output.environment)
    notify.tell(model, output.environment)
    output.say(f"[green]ok[/green] the canary {result['version']} of {model} is gone and rejected: {escape(reason)}")
    output.give(result)


def _decide(output: Output, name: str, contract: int | None, verb: str, reason: str, seconds: float = 0) -> None:
    from model_release.steps import decide as step

    model = output.model(name, contract)
    done = step.run(model, output.environment, verb, by=getpass.getuser(), reason=reason, seconds=seconds)
    about = "the approval" if done["subject"] == step.APPROVAL else f"stage {done['subject']} %"
    said = {"advance": "yes", "roll_back": "no", "extend": f"{seconds:g} s more"}[verb]
    output.say(
        f"[green]ok[/green] {about} of {model} version {done['version']}: {said}. The release acts at its next look"
    )
    output.give(done)

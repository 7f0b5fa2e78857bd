"""Commands that change what serves: release, rollback, and one step of a release."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from model_release.cli.output import Contract, Output, Sha256, new_run_id
from model_release.errors import RouteAloneSetBack, StoreUnavailable
from model_release.identity import Kind, Mode, Release, version_of
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.spec_files import find_served

Name = Annotated[str, typer.Argument(help="Model.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Up to a proved canary without traffic; then it is undone.")]
Emergency = Annotated[
    bool, typer.Option("--emergency", help="Stable is bad: the objectives alone judge, bakes are a quarter as long.")
]
MinBake = Annotated[float | None, typer.Option(min=0, help="Seconds that each stage lasts at least.")]
MaxBake = Annotated[float | None, typer.Option(min=0, help="Seconds after which a stage is held, or ends.")]
STEPS = (
    "plan", "export", "validate", "publish", "benchmark", "deploy", "shift", "watch", "promote", "roll_back", "finish",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(release)
    app.command()(rollback)
    app.command()(step)


def release(
    context: typer.Context,
    name: Name,
    checkpoint: Annotated[str | None, typer.Option(help="URI; by default what the config says.")] = None,
    version: Annotated[int | None, typer.Option(help="YYYYMMDDHHMMSS; by default now, in UTC.")] = None,
    sha256: Sha256 = None,
    reason: Annotated[str, typer.Option(help="Why; an emergency has to say it.")] = "",
    dry_run: DryRun = False,
    emergency: Emergency = False,
    min_bake_s: MinBake = None,
    max_bake_s: MaxBake = None,
    benchmark: Annotated[bool, typer.Option(help="Measure on bench, and tune the batching.")] = True,
) -> None:
    """Release a checkpoint through the canary, without Airflow."""
    output: Output = context.obj
    spec = output.spec(name)
    asked = Release(
        model=spec.served_name,
        version=version or version_of(datetime.now(UTC)),
        kind=Kind.BUILD,
        run_id=new_run_id("release"),
        checkpoint=checkpoint,
        reason=reason,
        by=getpass.getuser(),
        sha256=sha256,
        mode=_mode(dry_run=dry_run, emergency=emergency),
        min_bake_s=min_bake_s,
        max_bake_s=max_bake_s,
        benchmark=benchmark,
    )
    _tell_story(output, asked, spec)


def rollback(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")],
    to: Annotated[int | None, typer.Option(help="A sealed version.")] = None,
    contract: Contract = None,
    dry_run: DryRun = False,
    emergency: Emergency = False,
    min_bake_s: MinBake = None,
    max_bake_s: MaxBake = None,
) -> None:
    """Go back: abort a live canary, else restore the standby, or the newest promoted version, or the one asked for."""
    from model_release.steps import abort, notify

    output: Output = context.obj
    mode = _mode(dry_run=dry_run, emergency=emergency)
    model, store = output.model(name, contract), ObjectStore(output.environment.s3)
    try:
        state = StateFile(store, model).read()
    except StoreUnavailable as error:
        if to is None:
            _set_route_back(output, model, error)
        raise

    def asked(version: int, what: str) -> Release:
        return Release(
            model,
            version,
            Kind.RESTORE,
            new_run_id(what),
            reason=reason,
            by=getpass.getuser(),
            mode=mode,
            min_bake_s=min_bake_s,
            max_bake_s=max_bake_s,
        )

    if to is None and state.canary is not None and mode is not Mode.DRY_RUN:
        result = abort.run(asked(state.canary.version, "abort"), output.environment)
        notify.tell(model, output.environment)
        output.say(f"[green]ok[/green] the canary {result['version']} of {model} is gone and rejected: {reason}")
        output.give(result)
        return
    version = to if to is not None else abort.target(state)
    _tell_story(output, asked(version, "rollback"), _spec_of(output.spec(name), state, store))


def _mode(*, dry_run: bool, emergency: bool) -> Mode:
    if dry_run and emergency:
        raise typer.BadParameter("a dry run moves no traffic, so it helps in no emergency: choose one")
    return Mode.DRY_RUN if dry_run else Mode.EMERGENCY if emergency else Mode.NORMAL


def _spec_of(spec: ModelSpec, state: State, store: ObjectStore) -> ModelSpec:
    """Return the config; for an earlier contract, which it describes no longer, the one it was last released with."""
    from model_release.steps.context import read_frozen_spec

    if state.model == spec.served_name or state.release is None:
        return spec
    return read_frozen_spec(store, state.model, state.release.spec_digest)


def _set_route_back(output: Output, model: str, error: StoreUnavailable) -> None:
    """Take a live canary out of the traffic without S3; raises RouteAloneSetBack if there was one."""
    from model_release.steps.roll_back import route_back

    route = route_back(model, output.environment)
    if route is not None:
        stable = route.versions.get(route.stable) if route.stable else None
        canary = route.versions.get(route.canary) if route.canary else None
        raise RouteAloneSetBack(model, stable, canary, str(error)) from None


def step(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="STEP", help=" | ".join(STEPS))],
    release_json: Annotated[str, typer.Option("--release", help="The release, as JSON.")],
    stage: Annotated[int | None, typer.Option(help="For shift and watch.")] = None,
    reason: Annotated[str, typer.Option(help="For roll_back.")] = "",
) -> None:
    """Run one step of a release, as Airflow does."""
    from importlib import import_module

    output: Output = context.obj
    if which not in STEPS:
        raise typer.BadParameter(f"{which!r} is no step; there are {', '.join(STEPS)}")
    try:
        asked = Release.from_dict(json.loads(release_json))
    except (ValueError, TypeError, KeyError) as error:
        raise typer.BadParameter(f"--release is not a release: {error}") from None
    arguments: list[Any] = []
    if which == "plan":
        arguments = [find_served(output.configs, asked.model)]
    elif which in ("shift", "watch"):
        if stage is None:
            raise typer.BadParameter(f"{which} needs --stage")
        arguments = [stage]
    elif which == "roll_back":
        arguments = [reason]
    result = import_module(f"model_release.steps.{which}").run(asked, output.environment, *arguments)
    output.say(f"[green]ok[/green] {which}: {json.dumps(result, default=str)}")
    output.give(result)


def _tell_story(output: Output, asked: Release, spec: ModelSpec) -> None:
    from model_release.steps import story
    from model_release.steps.story import Told

    told: list[dict[str, Any]] = []

    def tell(what: Told) -> None:
        mark = "[red]failed[/red]" if what.error else "[green]ok[/green]    "
        output.say(f"{mark} {what.step:<11} {what.seconds:6.1f} s  {_in_short(what)}")
        if what.step == "plan" and what.result:
            for line in what.result["lines"]:
                output.say(f"       {line}")
        error = str(what.error) if what.error else None
        told.append({"step": what.step, "seconds": what.seconds, "result": what.result, "error": error})

    result = story.run(asked, output.environment, spec, tell)
    undone = f"; the dry run of {asked.version} was undone" if asked.mode is Mode.DRY_RUN else ""
    output.say(f"[green]{asked.model} serves version {result['stable']}{undone}[/green]")
    output.give({"release": asked.to_dict(), "result": result, "steps": told})


def _in_short(what: Any) -> str:
    if what.error is not None:
        return str(what.error).replace("[", r"\[")
    facts = {key: value for key, value in (what.result or {}).items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("model", "lines")).replace(
        "[", r"\["
    )

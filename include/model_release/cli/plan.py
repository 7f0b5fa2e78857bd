"""`model-release plan`: what a release of a model would need, before anything is claimed or touched."""

from __future__ import annotations

from typing import Annotated

import typer

from model_release.cli.output import Output
from model_release.gates.plan import Present
from model_release.ledger.state import StateFile
from model_release.repository.store import ObjectStore
from model_release.steps.context import Seen
from model_release.steps.forecast import READ_FOR_S, forecast, present


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    rate: Annotated[
        float | None, typer.Option(min=0, help="Requests per second; by default the router's present rate.")
    ] = None,
    read_for_s: Annotated[float, typer.Option(min=0.5, help="How long the router is read for the rate.")] = READ_FOR_S,
    first_release: Annotated[
        bool | None, typer.Option(help="Whether nothing is stable yet; by default the ledger says it.")
    ] = None,
) -> None:
    """Say how many requests and minutes each stage needs, what it finds, and whether a healthy version is in time."""
    output: Output = context.obj
    spec = output.spec(name)
    spec = spec.served_as(spec.served_name)
    known, first = Present(rate), bool(first_release)
    if rate is None or first_release is None:
        store = ObjectStore(output.environment.s3)
        stable = StateFile(store, spec.name).read().stable
        first = stable is None if first_release is None else first_release
        if rate is None:
            seen = Seen(spec, output.environment, store)
            known = present(seen, stable.fleet if stable else None, read_for_s)
    stages = [100] if first else list(spec.canary.stages)
    plans = forecast(spec.canary, stages, known, first_release=first)
    per_s = "unknown" if known.requests_per_s is None else f"{known.requests_per_s:.1f} requests/s"
    output.say(f"{spec.name}: present rate {per_s}; each stage bakes at most {spec.canary.max_bake_s:g} s")
    for each in plans:
        output.say(f"  {each.sentence()}")
    shown = {"model": spec.name, "requests_per_s": known.requests_per_s, "first_release": first}
    output.give({**shown, "stages": [each.to_dict() for each in plans]})

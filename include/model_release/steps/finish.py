"""finish: green only if router, every replica and the ledger show what was asked; it also gives the claim back."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.errors import NotAsAsked, ReleaseError, RolledBack, StoreUnavailable
from model_release.identity import Release
from model_release.steps import report
from model_release.steps.context import Step, begin
from model_release.steps.queue import leave_queue
from model_release.steps.route import route_of
from model_release.steps.serve import prove, sealed_bundle


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Compare what serves with what was asked, of a dry run with what served before, then end the claim.

    Raises RolledBack with the reason, NotAsAsked with every difference, Superseded when another release took over.
    """
    try:
        result = _finish(release, environment)
    except StoreUnavailable:
        raise
    except ReleaseError:
        report.leave(release.model, release.holder, environment)
        raise
    report.leave(release.model, release.holder, environment)
    return result


def _finish(release: Release, environment: Environment) -> dict[str, Any]:
    with begin(release, environment, "finish", ends=True) as step:
        running = step.running
        try:
            if running.outcome == "rolled_back":
                raise RolledBack(release.model, release.version, running.failure)
            if running.outcome == "promoted":
                differences = _differences(step)
            elif running.outcome == "undone":
                differences = _left_behind(step)
            else:
                differences = [*([running.failure.rstrip(".")] if running.failure else []), _where_it_stopped(step)]
            if differences:
                raise NotAsAsked(release.model, differences)
        except ReleaseError as error:
            step.event("finished", green=False, reason=str(error), outcome=running.outcome)
            _give_back(step, "failed" if running.outcome == "running" else running.outcome)
            raise
        stable = step.claim.check().stable
        serves = stable.version if stable else None
        step.event("finished", green=True, stable=serves)
        _give_back(step, running.outcome)
        return {"model": release.model, "stable": serves, "green": True}


def _where_it_stopped(step: Step) -> str:
    state = step.claim.check()
    stable = f"version {state.stable.version}" if state.stable else "no version"
    return f"{stable} has the traffic, {step.release.version} was asked"


def _differences(step: Step) -> list[str]:
    """Return every way in which router, replicas and ledger differ from the asked version as stable."""
    state = step.claim.check()
    if state.stable is None or state.stable.version != step.release.version:
        return [_where_it_stopped(step)]
    return _not_serving(step)


def _left_behind(step: Step) -> list[str]:
    """Return every way in which a dry run has left the model other than it was."""
    state, before = step.claim.check(), step.running.standby_before
    canary = [f"the canary {state.canary.version} is still on {state.canary.fleet}"] if state.canary else []
    standby = [f"the standby {before.version} is not back"] if before is not None and state.standby != before else []
    return [*canary, *standby, *_not_serving(step)]


def _not_serving(step: Step) -> list[str]:
    """Return every way in which router and replicas differ from the ledger's stable."""
    state, found = step.claim.check(), []
    route, wanted = step.router.read(step.model), route_of(state, step, canary_percent=0)
    if route is None or (route.weights, route.versions) != (wanted.weights, wanted.versions):
        found.append(f"the route is {route.weights if route else 'missing'}, not {wanted.weights}")
    if state.stable is None:
        return found
    try:
        version = state.stable.version
        prove(step, state.stable.fleet, step.archive.require(version), sealed_bundle(step, version))
    except ReleaseError as error:
        found.append(str(error))
    return found


def _give_back(step: Step, outcome: str) -> None:
    leave_queue(step)
    running = step.running.model_copy(update={"outcome": outcome})
    step.update(release=running, claim=None)

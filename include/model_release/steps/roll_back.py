"""roll_back: weight 0 before all else, confirmed where requests arrive; then the version is removed and recorded.

A replica that the version's load has left unwell is recycled as it is removed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from model_release.environment import FLEETS, Environment
from model_release.errors import ReleaseError, ReplicaUnavailable, StoreUnavailable
from model_release.identity import Mode, Release
from model_release.ledger.state import Rejection, Running, State
from model_release.steps.context import Step, begin
from model_release.steps.ease_back import ease_back
from model_release.steps.recycle import remove
from model_release.steps.route import CONFIRM_TIMEOUT_S, apply_route, route_of
from model_release.steps.serve import await_no_requests, put_on, sealed_bundle
from model_release.steps.shadow import named
from model_release.traffic import connect
from model_release.traffic.router import Route

_DRY_RUN_ENDS = "a dry run ends at weight 0"

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment, reason: str) -> dict[str, Any]:
    """
    Put the traffic back and take the canary away; a release without a canary has nothing to undo.

    A dry run also gets the standby back that its canary has displaced.

    The version is rejected if a gate judged it `rollback`. With S3 down the route alone is set back, and
    StoreUnavailable is raised: run the step again when S3 is there.
    """
    try:
        with begin(release, environment, "roll_back") as step:
            running = step.running
            against = verdict_against(running)
            why = against or reason
            if running.mode is not Mode.DRY_RUN:
                why = why or running.failure or "no reason was given"
                return undo(step, reason=why, rejects=against is not None)
            if not running.deployed:  # else a failure that is in the record was mended by another try
                why = why or running.failure or "the canary was not proved on its fleet"
            undone = undo(step, reason=why or _DRY_RUN_ENDS, rejects=False, outcome="rolled_back" if why else "undone")
            _put_standby_back(step)
            return undone
    except StoreUnavailable:
        try:
            route_back(release.model, environment, release.version)
        except ReleaseError as error:
            log.warning("the route of %s was not set back: %s", release.model, error)
        raise


def verdict_against(running: Running | None) -> str | None:
    """Return the words of the gate that stopped a release, or None if none did."""
    for stage, verdict in running.verdicts.items() if running else ():
        if verdict.get("action") == "rollback":
            return f"{named(int(stage))}: {verdict.get('reason', '')}"
    return None


def _put_standby_back(step: Step) -> None:
    """Have the standby on its fleet again as it was before the release; its config is the sealed one."""
    standby = step.running.standby_before
    if standby is None or step.claim.check().standby is not None:
        return
    put_on(step, standby.fleet, step.archive.require(standby.version), sealed_bundle(step, standby.version))
    step.update(standby=standby)
    step.event("standby is back", fleet=standby.fleet, standby=standby.version)


def undo(step: Step, *, reason: str, rejects: bool, outcome: str = "rolled_back") -> dict[str, Any]:
    """
    Take the canary out of the traffic and off its fleet, whichever release it belongs to.

    `weight_0_after_s` is how long it took until weight 0 was confirmed at the receivers.
    """
    state = step.claim.check()
    if state.canary is None:
        step.event("nothing to roll back", reason=reason)
        return {"rolled_back": False, "reason": reason, "problems": []}
    canary, began = state.canary, time.monotonic()
    apply_route(step, route_of(state.model_copy(update={"canary": None}), step, canary_percent=0), easing=True)
    problems: list[str] = []
    try:
        await_no_requests(step, canary.fleet)
    except ReplicaUnavailable as error:
        problems.append(str(error))
    weight_0_after_s = round(time.monotonic() - began, 3)
    problems += remove(step, canary.fleet)
    rejection = Rejection(version=canary.version, reason=reason, at=step.store.now(), run_id=step.release.run_id)

    def without_canary(now: State) -> State:
        running = now.release
        if running is not None and running.version == canary.version:
            failure = reason if outcome == "rolled_back" else ""
            running = running.model_copy(update={"outcome": outcome, "failure": failure})
        rejected = [*now.rejected, rejection] if rejects else now.rejected
        return now.model_copy(update={"canary": None, "rejected": rejected, "release": running})

    told = {"reason": reason, "rejected": rejects, "problems": problems, "weight_0_after_s": weight_0_after_s}
    # First, as the next try would find no canary and tell nobody.
    step.event(outcome, rolled_back=canary.version, **told)
    step.claim.change(without_canary)
    return {"rolled_back": True, "version": canary.version, **told}


def route_back(model: str, environment: Environment, version: int | None = None) -> Route | None:
    """
    Set the route to stable with the router alone, which knows the roles itself; the ledger does not hear of it.

    Returns the route, or None when it has no canary, or one of another version than is asked for. Raises
    RouterUnavailable, RouteNotConfirmed.
    """
    router = connect(environment)
    route = router.read(model)
    if route is None or route.canary is None or version not in (None, route.versions[route.canary]):
        return None
    back = replace(route, weights={fleet: 100 if fleet == route.stable else 0 for fleet in FLEETS}, mirrored={})
    ease_back(router, environment, back)
    router.set(back)
    router.confirm(back, CONFIRM_TIMEOUT_S)
    log.warning("S3 did not answer: the route of %s was set back to stable by itself", model)
    return back

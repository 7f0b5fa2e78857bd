"""
orphan: a canary whose release has died goes back; while it is held, it is looked at in the release's place.

A release that died without a canary has left its claim alone, which is taken from it too, for people to see.
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta
from typing import Any

from model_release.environment import Environment
from model_release.identity import Kind, Release
from model_release.ledger.claim import as_seen
from model_release.ledger.state import ClaimRecord, Running, State, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import approve, report, watch
from model_release.steps.abort import end_live
from model_release.steps.context import begin
from model_release.steps.decide import APPROVAL, waiting_for
from model_release.steps.roll_back import verdict_against

#: A release that only pauses, between two tasks say, is silent for longer than its lease; without traffic it may be.
GRACE_LEASES = 10
#: Of a look in the release's place: over before the next round, which looks again.
_LOOK_LEASE_S = 5

log = logging.getLogger(__name__)


def is_orphan(state: State, now: datetime, lease_s: float) -> bool:
    """
    Say whether a canary is nobody's: no claim lives, and none is held for a person to decide.

    One that has traffic, or may have, is it as soon as the lease is over; one without, GRACE_LEASES leases later.
    """
    if state.canary is None or held_stage(state, now) is not None or waiting_for(state, now) == APPROVAL:
        return False
    shares = [state.weights.intent, state.weights.confirmed]
    fleet = state.canary.fleet
    if any(share is None or getattr(share, fleet) > 0 for share in shares):
        return is_free(state.claim, now, 0)
    return is_free(state.claim, now, GRACE_LEASES * lease_s)


def held_stage(state: State, now: datetime) -> int | None:
    """
    Return the stage at which the canary is held for a person, None when it is not.

    A verdict ends the hold, a good one too: nobody looks at a judged stage again, and only its release may advance it.
    """
    claim = state.claim
    if state.release is None or claim is None or claim.held_until is None or claim.held_until <= now:
        return None
    unjudged = [stage for stage in state.release.stages if str(stage) not in state.release.verdicts]
    return next((stage for stage in unjudged if claim.phase == watch.phase_of(stage)), None)


def is_free(claim: ClaimRecord | None, now: datetime, grace_s: float) -> bool:
    """Say whether nobody has the claim, or nobody has renewed it for `grace_s` seconds after its end."""
    return claim is None or claim.expires_at + timedelta(seconds=grace_s) <= now


def return_orphan(model: str, store: ObjectStore, environment: Environment) -> dict[str, Any] | None:
    """
    Take the orphan of a model out of the traffic and off its fleet; None when there is none.

    A held one is looked at first, and goes back if it is judged bad: the looks' only verb. Raises ClaimHeld and
    Superseded when somebody else was faster, and whatever keeps the canary from being returned.
    """
    file = StateFile(store, model)
    state, now = file.read(), store.now()
    if state.canary is None:
        silent = state.claim is not None and is_free(state.claim, now, GRACE_LEASES * environment.lease_s)
        if silent and waiting_for(state, now) != APPROVAL:
            _end_claim(state, now, environment)
        return None
    if waiting_for(state, now) == APPROVAL and state.release is not None:
        if not is_free(state.claim, now, 0) or _look_while_asked(state.release, model, environment) != "rollback":
            return None
        return _end(file.read(), now, environment)
    stage = held_stage(state, now)
    if stage is not None and state.release is not None and is_free(state.claim, now, 0):
        if _look_for(state.release, stage, model, environment)["action"] != "rollback":
            return None
        state = file.read()
    elif not is_orphan(state, now, environment.lease_s):
        return None
    return _end(state, now, environment)


def _look_for(running: Running, stage: int, model: str, environment: Environment) -> dict[str, Any]:
    """Take a look as the held release itself would, at the stage that it is held at."""
    short = environment.model_copy(update={"lease_s": _LOOK_LEASE_S})
    return watch.look(_itself(running, model), short, stage, stands_in=True)


def _look_while_asked(running: Running, model: str, environment: Environment) -> str | None:
    """Look as the release itself would that waits for an approval; returns what it comes to."""
    short = environment.model_copy(update={"lease_s": _LOOK_LEASE_S})
    action: str | None = approve.look(_itself(running, model), short, stands_in=True)["action"]
    return action


def _itself(running: Running, model: str) -> Release:
    return Release(
        model,
        running.version,
        running.kind,
        running.run_id,
        running.clear_number,
        checkpoint=running.checkpoint,
        reason=running.reason,
        by="guard",
    )


def _end_claim(state: State, now: datetime, environment: Environment) -> None:
    """Free the claim of a release that died without a canary, and say of it that it failed."""
    guard = _guard(state, now, Kind.BUILD, _silence(state))
    with begin(guard, environment, "guard", begins=True, demand=as_seen(state, unanswered=True)) as step:
        running = step.claim.check().release
        if running is not None and running.outcome == "running":
            running = running.model_copy(update={"outcome": "failed", "failure": running.failure or _silence(state)})
        step.event("ended", reason=_silence(state), ended_version=running.version if running else None)
        step.update(claim=None, release=running)


def _end(state: State, now: datetime, environment: Environment) -> dict[str, Any] | None:
    against = verdict_against(state.release)
    reason = against or _silence(state)
    # A judged one may be taken from a release that comes back in this moment, which would roll back too.
    guard = _guard(state, now, Kind.RESTORE if against else Kind.BUILD, reason)
    with begin(guard, environment, "guard", begins=True, demand=as_seen(state, unanswered=True)) as step:
        if step.claim.check().canary is None:
            step.update(claim=None)
            return None
        # What nobody judged bad may be released again.
        result = end_live(step, reason=reason, rejects=against is not None)
    report.leave(state.model, result["run"], environment)
    log.warning("returned the canary %s of %s: %s", result["version"], state.model, reason)
    return {"model": state.model, **result}


def _guard(state: State, now: datetime, kind: Kind, reason: str) -> Release:
    version = next((each.version for each in (state.canary, state.claim, state.stable) if each), 0)
    run_id = f"guard-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    return Release(state.model, version, kind, run_id, reason=reason, by="guard")


def _silence(state: State) -> str:
    if state.claim is None:
        return "its release ended without taking it back"
    claim = state.claim
    for stage, verdict in state.release.verdicts.items() if state.release else ():
        if claim.held_until and claim.phase == watch.phase_of(int(stage)) and verdict.get("action") == "advance":
            return f"its release {claim.holder} died while it was held at {stage} %, and nobody else may advance it"
    return f"its release {claim.holder} was not heard of since {claim.expires_at:%H:%M:%S} UTC, in {claim.phase}"

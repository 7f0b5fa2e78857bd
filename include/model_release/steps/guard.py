"""
guard: returns a canary to 0 whose release has died. A process of its own, beside whatever runs the releases.

A release renews its claim as long as it lives, by the store's clock. A canary that still has traffic when that claim
has expired is judged by nobody.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from model_release.environment import Environment
from model_release.errors import ClaimHeld, ReleaseError, StoreUnavailable, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps.abort import end_live
from model_release.steps.context import begin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One look at every model: the canaries that were returned, and what kept it from returning or seeing one."""

    returned: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(environment: Environment) -> Round:
    """
    Look at every model of the ledger once.

    A problem with one model keeps it from no other; it is in the Round. Two guards at once do no harm: one gets the
    claim. Raises StoreUnavailable when the ledger cannot be listed.
    """
    done = Round()
    store = ObjectStore(environment.s3)
    for model in store.folders("ledger/"):
        try:
            returned = _look_after(model, store, environment)
        except (ClaimHeld, Superseded) as error:
            log.info("somebody else has %s in hand: %s", model, error)
        except ReleaseError as error:
            log.warning("%s: %s", model, error)
            done.problems.append(f"{model}: {error}")
            if isinstance(error, StoreUnavailable):
                break  # each of the others would wait for its deadline too
        else:
            done.returned.extend([returned] if returned else [])
    return done


def is_abandoned(state: State, now: datetime) -> bool:
    """Say whether a canary has traffic, or may have, and no living release holds the claim."""
    if state.canary is None or (state.claim is not None and state.claim.expires_at > now):
        return False
    shares = [state.weights.intent, state.weights.confirmed]
    return any(share is None or getattr(share, state.canary.fleet) > 0 for share in shares)


def _look_after(model: str, store: ObjectStore, environment: Environment) -> dict[str, Any] | None:
    state, now = StateFile(store, model).read(), store.now()
    if state.canary is None or not is_abandoned(state, now):
        return None
    run_id = f"guard-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    reason = _reason(state)
    # Of a build, since a restore would take the claim of a release that came back to life in this moment.
    guard = Release(model, state.canary.version, Kind.BUILD, run_id, reason=reason, by="guard")
    with begin(guard, environment, "guard", begins=True) as step:
        if step.claim.check().canary is None:
            step.update(claim=None)
            return None
        # Nobody judged it bad: it may be released again.
        result = end_live(step, reason=reason, rejects=False)
    log.warning("returned the canary %s of %s: %s", result["version"], model, reason)
    return {"model": model, **result}


def _reason(state: State) -> str:
    if state.claim is None:
        return "its release ended without taking it back"
    claim = state.claim
    return f"its release {claim.holder} was not heard of since {claim.expires_at:%H:%M:%S} UTC, in {claim.phase}"

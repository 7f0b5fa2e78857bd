"""
decide: what a person says to a release that is held, or that waits for an approval.

It is written into the ledger, and the release acts on it at its next look. No claim is taken: who asked goes on holding
it. What a gate says against the canary counts more than what a person says for it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from model_release.environment import Environment
from model_release.errors import NothingToDecide
from model_release.identity import Release
from model_release.ledger.claim import APPROVE
from model_release.ledger.state import Decision, Running, State, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps.context import record
from model_release.steps.watch import phase_of

APPROVAL = "approval"
ADVANCE, ROLL_BACK, EXTEND = "advance", "roll_back", "extend"


def run(
    model: str, environment: Environment, verb: str, *, by: str, reason: str, seconds: float = 0, run: str | None = None
) -> dict[str, Any]:
    """
    Let a release that waits for a person advance, go back, or wait `seconds` more; `run` is the one that is meant.

    Returns version, run, subject (a stage, or `approval`) and verb. Raises NothingToDecide.
    """
    store = ObjectStore(environment.s3)
    now = store.now()

    subject: str | None = None

    def decided(state: State) -> State:
        nonlocal subject
        subject = waiting_for(state, now)
        running, claim = state.release, state.claim
        if subject is None or running is None or claim is None or run not in (None, running.holder):
            raise NothingToDecide(model, _why_not(state, now, run))
        if verb == EXTEND:
            longer = {**running.extended_s, subject: running.extended_s.get(subject, 0.0) + seconds}
            until = (claim.held_until or now) + timedelta(seconds=seconds)
            return _with(state, running.model_copy(update={"extended_s": longer}), until)
        decision = Decision.model_validate({"verb": verb, "by": by, "reason": reason, "at": now})
        answered = running.model_copy(update={"decisions": {**running.decisions, subject: decision}})
        return _with(state, answered, None if subject == APPROVAL else claim.held_until)

    after = StateFile(store, model).change(decided)
    running = after.release
    if running is None:
        raise NothingToDecide(model, "nothing of it is released")
    facts = {"verb": verb, "subject": subject, "reason": reason, **({"seconds": seconds} if verb == EXTEND else {})}
    record(store, _of(running, model, by), after.epoch, "decided", facts)
    return {"model": model, "version": running.version, "run": running.holder, "subject": subject, "verb": verb}


def waiting_for(state: State, now: datetime) -> str | None:
    """Return what a person is asked about: a stage that is held, `approval`, or None when nobody waits for anybody."""
    claim, running = state.claim, state.release
    if claim is None or running is None or claim.held_until is None or claim.held_until <= now:
        return None
    if claim.holder != running.holder or running.outcome != "running":
        return None
    if claim.phase == APPROVE:
        return None if APPROVAL in running.decisions else APPROVAL
    open_ones = [str(stage) for stage in running.stages if str(stage) not in {*running.verdicts, *running.decisions}]
    return next((stage for stage in open_ones if claim.phase == phase_of(int(stage))), None)


def _with(state: State, running: Running, until: datetime | None) -> State:
    claim = state.claim.model_copy(update={"held_until": until}) if state.claim else None
    return state.model_copy(update={"release": running, "claim": claim})


def _why_not(state: State, now: datetime, run: str | None) -> str:
    running = state.release
    if running is None or state.claim is None:
        return "nothing of it is being released"
    if run is not None and run != running.holder:
        return f"{running.holder} is being released now, not {run}"
    waits = waiting_for(state, now)
    return f"its release {running.holder} is in {state.claim.phase}, and waits for nobody" if waits is None else ""


def _of(running: Running, model: str, by: str) -> Release:
    return Release(model, running.version, running.kind, running.run_id, running.clear_number, by=by)

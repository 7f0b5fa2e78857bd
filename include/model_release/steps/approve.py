"""
approve: a release waits for a person's yes, before the canary or before all of the traffic.

The claim is held meanwhile, and a canary that has traffic goes on being looked at: bad ones go back without an answer.
No answer in `canary.hold_s` is a no.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from model_release.environment import Environment
from model_release.errors import NotApproved, Superseded
from model_release.identity import Release
from model_release.ledger.claim import APPROVE, NothingLeft
from model_release.ledger.state import Decision, Running, State
from model_release.report.evidence import evidence
from model_release.report.release import assemble
from model_release.steps import notify
from model_release.steps.context import Step, begin
from model_release.steps.decide import ADVANCE, APPROVAL, ROLL_BACK
from model_release.steps.roll_back import verdict_against
from model_release.steps.watch import stand

_NOBODY = "nobody"


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """Ask, and look until there is an answer. Raises NotApproved."""
    asked = ask(release, environment)
    notify.tell(release.model, environment)
    while asked["needed"]:
        started = time.monotonic()
        try:
            if look(release, environment)["done"]:
                break
        except Superseded as error:
            if not error.is_by(release.holder):
                raise
            continue  # the guard looked in the place of this process while it was stopped
        time.sleep(max(0.0, asked["look_interval_s"] - (time.monotonic() - started)))
    return settle(release, environment)


def ask(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Hold the claim for a person and say what there is to decide.

    Returns needed; and if it is: until, hold_s, approvers, subject and body (Markdown), look_interval_s.
    """
    with begin(release, environment, APPROVE) as step:
        running, spec = step.running, step.spec
        until = _hold(step)
        if until is None:
            return {"needed": False}
        report = assemble(step.store, release.model, release.holder)
        what = "begin its canary" if running.approval == "before_canary" else "get all of the traffic"
        return {
            "needed": True,
            "until": until.isoformat(),
            "hold_s": max(1.0, (until - step.store.now()).total_seconds()),
            "approvers": spec.canary.approvers,
            "look_interval_s": spec.canary.look_interval_s,
            "subject": f"May {release.model} version {release.version} {what}?",
            "body": evidence(report, until),
        }


def _hold(step: Step) -> datetime | None:
    """Hold the claim from now on, unless an earlier try of the step did; returns until when, None with an answer."""
    state = step.claim.check()
    if state.claim is None or state.release is None or _is_settled(state.release):
        return None
    if state.claim.held_until is not None:
        return state.claim.held_until
    until = step.store.now() + timedelta(seconds=step.spec.canary.hold_s)

    def held(state: State) -> State:
        holding = state.claim.model_copy(update={"held_until": until}) if state.claim else None
        return state.model_copy(update={"claim": holding})

    # First, as the next try would find the hold and say nothing: an event too many is better than a silent question.
    step.event("approval asked", point=state.release.approval, until=until)
    step.claim.change(held)
    return until


def look(release: Release, environment: Environment, *, stands_in: bool = False) -> dict[str, Any]:
    """
    Look whether there is an answer, and at the canary if it has traffic; who `stands_in` for a dead release may too.

    An answer that is there is told without the claim, which the next step may have.

    Returns done, action (`rollback` when the canary was judged bad meanwhile, else None) and reason.
    """

    def unsettled(state: State) -> None:
        running = state.release
        if running is not None and running.holder == release.holder and _is_settled(running):
            raise NothingLeft(_answered(running))

    try:
        with begin(release, environment, APPROVE, stands_in=stands_in, demand=unsettled) as step:
            return _look(step)
    except NothingLeft as settled:
        return settled.result


def _look(step: Step) -> dict[str, Any]:
    against = verdict_against(step.running) or stand(step)
    if against is not None:
        return {"done": True, "action": "rollback", "reason": against}
    now = step.store.now()
    if _is_over(step.claim.check(), now):
        _take_silence_for_a_no(step, now)
    running, claim = step.running, step.claim.check().claim
    if _is_settled(running):
        return _answered(running)
    until = f", until {claim.held_until:%H:%M:%S} UTC" if claim and claim.held_until else ""
    return {"done": False, "action": None, "reason": f"no answer yet{until}"}


def _answered(running: Running) -> dict[str, Any]:
    return {"done": True, "action": None, "reason": _said(running)}


def _is_settled(running: Running) -> bool:
    return APPROVAL in running.decisions or running.approval == "none"


def _is_over(state: State, now: datetime) -> bool:
    """Say whether nobody has answered, and nobody can any more."""
    if state.release is None or _is_settled(state.release):
        return False
    return state.claim is None or state.claim.held_until is None or state.claim.held_until <= now


def _take_silence_for_a_no(step: Step, now: datetime) -> None:
    """Decide in the place of who was asked, unless an answer came in this very moment: that one counts."""
    reason = f"no answer within {step.spec.canary.hold_s:g} s is a no"
    no = Decision(verb=ROLL_BACK, by=_NOBODY, reason=reason, at=now)

    def silent(state: State) -> State:
        if state.release is None or not _is_over(state, now):
            return state
        decisions = {**state.release.decisions, APPROVAL: no}
        return state.model_copy(update={"release": state.release.model_copy(update={"decisions": decisions})})

    after = step.claim.change(silent)
    if after.release is not None and after.release.decisions.get(APPROVAL) == no:
        step.event("decided", verb=ROLL_BACK, subject=APPROVAL, by=_NOBODY, reason=reason)


def settle(release: Release, environment: Environment) -> dict[str, Any]:
    """Return who approved, and why. Raises NotApproved, with who said no, or what was found meanwhile."""
    with begin(release, environment, APPROVE) as step:
        running = step.running
        require_approval(running, running.approval)
        return {"approval": running.approval, "said": _said(running)}


def require_approval(running: Running, point: str) -> None:
    """Demand a person's yes if the release needs it at this point, whatever a task says. Raises NotApproved."""
    if running.approval == "none" or running.approval != point:
        return
    decision = running.decisions.get(APPROVAL)
    against = verdict_against(running)
    if against is not None or decision is None or decision.verb != ADVANCE:
        raise NotApproved(running.version, against or _said(running))


def _said(running: Running) -> str:
    decision = running.decisions.get(APPROVAL)
    if decision is None:
        return "nobody was asked" if running.approval == "none" else "nobody has answered yet"
    return f"{decision.by} said {'yes' if decision.verb == ADVANCE else 'no'}: {decision.reason or 'no reason given'}"

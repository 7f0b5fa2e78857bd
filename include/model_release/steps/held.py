"""held: what a person is asked about a stage whose looks do not decide it, and what the answer comes to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from model_release.environment import Environment
from model_release.identity import Release
from model_release.ledger.looks import StageLooks
from model_release.ledger.state import Running, State
from model_release.report.evidence import evidence
from model_release.report.release import assemble
from model_release.repository.store import ObjectStore
from model_release.spec import Canary
from model_release.steps.context import Step


def question(release: Release, environment: Environment, stage: int, look: dict[str, Any]) -> dict[str, Any]:
    """Return the subject and the body (Markdown) of the question that a look at a held stage leads to."""
    report = assemble(ObjectStore(environment.s3), release.model, release.holder)
    until = look.get("held_until")
    body = evidence(report, datetime.fromisoformat(until) if until else None, f"Not decided: {look['reason']}")
    return {"subject": f"{release.model} version {release.version} is held at {stage} %. What now?", "body": body}


def with_hold(canary: Canary, longer_s: float = 0.0) -> Canary:
    """A stage that is held goes on being looked at: `hold_s` more, and what a person has added, before it goes back."""
    if canary.on_inconclusive != "hold":
        return canary
    return canary.model_copy(update={"max_bake_s": canary.max_bake_s + canary.hold_s + longer_s})


def extended_s(running: Running, stage: int) -> float:
    """Return by how much people have moved the end of a stage's hold."""
    return running.extended_s.get(str(stage), 0.0)


def note_hold(step: Step, looks: StageLooks, decided: dict[str, Any], age_s: float) -> str | None:
    """
    Say once, in the claim and as an event, that a stage is past its bake and is held, and until when.

    `age_s` is the stage's. Returns until when, None before that.
    """
    asked = step.spec.canary
    if age_s < asked.max_bake_s:
        return None

    def until(state: State) -> datetime:
        longer_s = extended_s(state.release, looks.stage) if state.release else 0.0
        return looks.started_at + timedelta(seconds=asked.max_bake_s + asked.hold_s + longer_s)

    def held(state: State) -> State:
        holding = state.claim.model_copy(update={"held_until": until(state)}) if state.claim else None
        return state.model_copy(update={"claim": holding})

    state = step.claim.check()
    if held(state).claim != state.claim:
        # First, as the next look would find the hold and say nothing.
        step.event("held", stage=looks.stage, until=until(state), reason=decided["reason"])
        state = step.claim.change(held)
    return until(state).isoformat()


def by_person(running: Running, stage: int, decided: dict[str, Any]) -> dict[str, Any]:
    """
    Return what a look comes to once a person has decided about a stage that is held.

    Nobody gets a canary past a verdict against it or a replica that is not proved; past the end of its time it gets,
    as the answer came before that. Back it may be sent at any time, also by somebody whom a verdict for it has
    overtaken.
    """
    decision = running.decisions.get(str(stage))
    if decision is None or decided["verdict"] == "rollback":
        return decided
    if decision.verb == "advance" and (decided["action"] == "advance" or decided.get("unproved")):
        return decided
    action = "advance" if decision.verb == "advance" else "rollback"
    said = f"{decision.by} lets it {'advance' if action == 'advance' else 'go back'}: {decision.reason}"
    return {**decided, "action": action, "reason": f"{said}; {decided['reason']}"}


def end_stage(step: Step, seen: Running, stage: int, decided: dict[str, Any]) -> bool:
    """
    Write down what a stage comes to; False, and nothing is written, when a person spoke since the look began.

    The next look heeds what was said. A verdict against the canary is written all the same.
    """

    def ended(state: State) -> State:
        running = state.release
        if running is None:
            return state
        spoken = (running.decisions, running.extended_s) != (seen.decisions, seen.extended_s)
        if spoken and decided["verdict"] != "rollback":
            return state
        running = running.model_copy(update={"verdicts": {**running.verdicts, str(stage): decided}})
        return state.model_copy(update={"release": running})

    after = step.claim.change(ended).release
    return after is not None and str(stage) in after.verdicts

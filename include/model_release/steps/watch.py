"""
watch: look at both arms until a verdict ends the stage.

One look is one call, and all that a look needs lies in the ledger: a triggerer that restarts, or two at once, go on
where the stage stands. Nothing is held between looks. The evidence of a release's earlier stages is carried into the
next, so that alpha is spent once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from model_release.environment import Environment
from model_release.errors import MetricsUnavailable, NoAdvanceVerdict, RouterUnavailable, Superseded
from model_release.gates.judge import Judge, Verdict
from model_release.gates.looks import Look
from model_release.identity import Release
from model_release.ledger.claim import NothingLeft
from model_release.ledger.looks import StageLooks
from model_release.ledger.state import Running, State
from model_release.spec import Canary
from model_release.steps import notify, shadow
from model_release.steps.before import learned
from model_release.steps.bystanders import look_at_bystanders
from model_release.steps.context import Step, begin
from model_release.steps.convergence import held_by, look_at_replicas
from model_release.steps.held import by_person, end_stage, extended_s, note_hold, with_hold
from model_release.steps.reading import read
from model_release.steps.slow_users import have_slow_users_told
from model_release.steps.withdraw import WITHDRAWN, given_up, weigh_by_replicas

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment, stage: int) -> dict[str, Any]:
    """Look at the spec's interval until the stage is decided; returns the last look's result."""
    told = False
    while True:
        started = time.monotonic()
        try:
            result = look(release, environment, stage)
        except Superseded as error:
            if not error.is_by(release.holder):
                raise
            continue  # the guard looked in the place of this process while it was stopped
        if result["done"]:
            return result
        if result["held_until"] is not None and not told:
            told = True
            notify.tell(release.model, environment)
        time.sleep(max(0.0, result["look_interval_s"] - (time.monotonic() - started)))


def phase_of(stage: int) -> str:
    """Return the claim's phase while a stage is looked at."""
    return f"watch {stage}"


def look(release: Release, environment: Environment, stage: int, *, stands_in: bool = False) -> dict[str, Any]:
    """
    Take one look at a stage and at the canary's replicas, judge it, and keep all in the ledger.

    Who `stands_in` for a release that is dead may look too. A judged stage is told without the claim, which the next
    step may have.

    Returns done, verdict, reason, gates, action (`advance` or `rollback` once done, else None), when to look again, and
    held_until, while the stage waits for a person.
    Raises NoAdvanceVerdict when the stage was never shifted to.
    """

    def unjudged(state: State) -> None:
        running = state.release
        if running is not None and running.holder == release.holder and str(stage) in running.verdicts:
            told = {"held_until": None, "done": True, "look_interval_s": 0.0}
            raise NothingLeft({**told, **running.verdicts[str(stage)]})

    try:
        with begin(release, environment, phase_of(stage), stands_in=stands_in, demand=unjudged) as step:
            return _look(step, stage)
    except NothingLeft as judged:
        return judged.result


def _look(step: Step, stage: int) -> dict[str, Any]:
    looks, etag = step.looks.read(stage)
    if looks is None:
        raise NoAdvanceVerdict(step.model, stage, "no shift to this stage")
    have_slow_users_told(step, stage)
    running = step.running
    before, canary = looks, with_hold(step.spec.canary, extended_s(running, stage))
    looks, decided = _look_once(step, canary, before)
    if decided["verdict"] != "rollback":
        looks, decided = _with_others(step, canary, before, looks, decided)
        decided = by_person(running, stage, decided)
        looks = looks.model_copy(update={"verdict": decided})
    if not step.looks.write(looks, etag):
        return _result(step, {**decided, "action": None})
    if decided["action"] is not None and end_stage(step, running, stage, decided):
        step.event("judged", **decided)
        return _result(step, decided)
    held_until = note_hold(step, looks, decided, _age_s(step, looks, decided))
    return _result(step, {**decided, "action": None}, held_until=held_until)


def _with_others(
    step: Step, canary: Canary, before: StageLooks, looks: StageLooks, decided: dict[str, Any]
) -> tuple[StageLooks, dict[str, Any]]:
    """
    Look at what the gates do not see: the other models on the fleet, and the canary's replicas.

    A bystander that suffers ends the release. A replica that restarted or was added is proved, and until then holds
    the advance. Without a proved one the canary has no weight.
    """
    why, told = look_at_bystanders(step)
    if why is None:
        marks, unproved = look_at_replicas(step, step.running.fleet, looks.replicas)
        changed = weigh_by_replicas(step, looks.stage, proved=len(marks), unproved=unproved)
        if changed == WITHDRAWN:
            # Once more, so that all that failed until the weight was gone is of one look: it may be one crash.
            looks, decided = _look_once(step, canary, before)
        looks = looks.model_copy(update={"replicas": marks})
        decided = held_by(decided, unproved, canary, _age_s(step, looks, decided))
        decided = given_up(step, looks.stage, decided, unproved, _age_s(step, looks, decided))
    else:
        decided = {**decided, "verdict": "rollback", "action": "rollback", "reason": why}
    decided = {**decided, "bystanders": told}
    return looks.model_copy(update={"verdict": decided}), decided


def _age_s(step: Step, looks: StageLooks, decided: dict[str, Any]) -> float:
    """Return how long the stage had been going on at its last look."""
    age_s: float = decided["t"] - (looks.started_at - step.running.started_at).total_seconds()
    return age_s


def stand(step: Step) -> str | None:
    """
    Look at the last judged stage again, while a person is asked about the next; only a rollback counts.

    Returns why the canary has to go back, which is the stage's verdict then; None otherwise, and without a stage.
    """
    judged = [stage for stage in step.running.stages if str(stage) in step.running.verdicts]
    looks, etag = step.looks.read(judged[-1]) if judged else (None, None)
    if looks is None:
        return None
    before = looks.verdict
    looks, decided = _look_once(step, step.spec.canary, looks)
    why = decided["reason"] if decided["verdict"] == "rollback" else look_at_bystanders(step)[0]
    if why is None:
        marks, unproved = look_at_replicas(step, step.running.fleet, looks.replicas)
        weigh_by_replicas(step, looks.stage, proved=len(marks), unproved=unproved)
        step.looks.write(looks.model_copy(update={"verdict": before, "replicas": marks}), etag)
        return None
    decided = {**decided, "verdict": "rollback", "action": "rollback", "reason": why}
    if step.looks.write(looks.model_copy(update={"verdict": decided}), etag):
        step.update_running(verdicts={**step.running.verdicts, str(looks.stage): decided})
        step.event("judged", **decided)
    return f"stage {looks.stage} %: {why}"


def _look_once(step: Step, canary: Canary, looks: StageLooks) -> tuple[StageLooks, dict[str, Any]]:
    """Read the counters once, add the look, and judge the whole stage by replaying it."""
    running, state = step.running, step.claim.check()
    if state.canary is None:
        raise NoAdvanceVerdict(step.release.model, looks.stage, "no canary")
    t = (step.store.now() - running.started_at).total_seconds()
    started_t = (looks.started_at - running.started_at).total_seconds()
    stable = state.stable.fleet if state.stable else None
    fleets = {"stable": stable, "canary": state.canary.fleet}
    looks = looks.model_copy(update={"carried": _carried(step, running, canary, looks)})
    try:
        found = read(step, looks, **fleets, t=t, stage=looks.stage, shadow=looks.stage == shadow.STAGE)
    except (RouterUnavailable, MetricsUnavailable) as error:
        down = Verdict(t, looks.stage, "inconclusive", f"source_down: {error}")
        return looks, _decided(canary, down, t - started_t, None)
    judge = _replayed(running, canary, looks, learned(step) if looks.carried is None else [])
    verdict = judge.take(found.look)
    if looks.stage == shadow.STAGE:
        verdict = shadow.ended(verdict, canary, t - started_t)
    decided = _decided(canary, verdict, t - started_t, judge.bounds_ms)
    if found.troubles:
        decided["reason"] = "; ".join([decided["reason"], *found.troubles])
    update = {
        **found.kept,
        "looks": [*looks.looks, found.look.to_dict()],
        "verdict": decided,
    }
    return looks.model_copy(update=update), decided


def _replayed(running: Running, canary: Canary, looks: StageLooks, before: Sequence[Look]) -> Judge:
    """Return the judge of a stage as its looks so far leave it; `before` are looks at stable alone, for the first."""
    judge = Judge(
        canary,
        looks.stage,
        first_release=running.judged_alone,
        bounds_ms=looks.bounds_ms,
        started_t=(looks.started_at - running.started_at).total_seconds(),
        carried=looks.carried,
    )
    judge.learn(before)
    judge.replay(Look.from_dict(line) for line in looks.looks)
    return judge


def _carried(step: Step, running: Running, canary: Canary, looks: StageLooks) -> dict[str, Any] | None:
    """
    Return what the stages before came to: from the stage's own object, else by replaying the stage before.

    None in the first stage. Looks of a judged stage change no more, so every watcher finds the same.
    """
    stages = running.stages
    place = stages.index(looks.stage) if looks.stage in stages else 0
    if looks.carried is not None or place == 0:
        return looks.carried
    before, _ = step.looks.read(stages[place - 1])
    if before is None:
        return None
    before = before.model_copy(update={"carried": _carried(step, running, canary, before)})
    return _replayed(running, canary, before, learned(step) if before.carried is None else []).carried()


def _decided(canary: Canary, verdict: Verdict, age_s: float, bounds_ms: list[float] | None) -> dict[str, Any]:
    """Return the verdict with what it leads to, and the latency bounds that the stages to come are held to."""
    return {**verdict.to_dict(), "action": _action(canary, verdict, age_s), "bounds_ms": bounds_ms}


def _action(canary: Canary, verdict: Verdict, age_s: float) -> str | None:
    """Turn a verdict into what happens: nothing yet, or the end of the stage."""
    if verdict.verdict in ("advance", "rollback"):
        return verdict.verdict
    if age_s < canary.max_bake_s:
        return None
    return "advance" if canary.on_inconclusive == "advance" else "rollback"


def _result(step: Step, verdict: dict[str, Any], held_until: str | None = None) -> dict[str, Any]:
    return {
        "held_until": held_until,
        "done": verdict["action"] is not None,
        "look_interval_s": step.spec.canary.look_interval_s,
        **verdict,
    }

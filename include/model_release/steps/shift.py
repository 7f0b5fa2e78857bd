"""shift: give the canary a stage's share of the traffic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model_release.environment import Environment
from model_release.errors import NoAdvanceVerdict
from model_release.identity import Release
from model_release.ledger.looks import StageLooks
from model_release.ledger.state import Running
from model_release.steps import reading, shadow
from model_release.steps.approve import require_approval
from model_release.steps.context import Step, begin
from model_release.steps.policy import refuse_advance
from model_release.steps.route import apply_route, route_of
from model_release.steps.serve import prove, sealed_bundle
from model_release.steps.slow_users import fix_what_is_slow


def run(release: Release, environment: Environment, stage: int) -> dict[str, Any]:
    """
    Prove the canary once more, shift the route to `stage` percent, confirm it, and open the stage's looks.

    Stage 0 is the shadow: no weight, but a share of stable's requests is mirrored to the canary.

    Raises NoAdvanceVerdict unless the ledger says that the stage before was judged `advance`, whatever a task says;
    NotApproved, ChangeFrozen.
    """
    with begin(release, environment, f"shift {stage}") as step:
        require_advance(step.running, stage)
        if stage == step.running.stages[-1]:
            require_approval(step.running, "before_full")
        refuse_advance(step)
        base = step.archive.require(release.version)
        prove(step, step.running.fleet, base, sealed_bundle(step, release.version))
        users = _users_upto(step, stage)
        fix_what_is_slow(step, stage)
        shadow_percent = shadow.percent_of(step.spec.canary, stage)
        route = route_of(step.claim.check(), step, canary_percent=stage, shadow_percent=shadow_percent)
        apply_route(step, route)
        _open_looks(step, stage, users)
        shifted = {"stage": stage, "weights": route.weights, "mirrored": route.mirrored}
        step.event("shifted", **shifted, slow_ms=step.running.user_bounds_ms)
        return shifted


def require_advance(running: Running, stage: int | None) -> None:
    """
    Demand the advance verdict of the stage before `stage` (None: of the last stage, before promotion).

    Raises NoAdvanceVerdict, also for a stage that the plan does not have or a canary that is not proved.
    """
    if stage is not None and stage not in running.stages:
        raise NoAdvanceVerdict(_model(running), stage, "not a stage of this release")
    before = running.stages if stage is None else running.stages[: running.stages.index(stage)]
    if not running.deployed:
        raise NoAdvanceVerdict(_model(running), 0, "the canary is not deployed")
    for earlier in before:
        action = running.verdicts.get(str(earlier), {}).get("action")
        if action != "advance":
            raise NoAdvanceVerdict(_model(running), earlier, action)


def _model(running: Running) -> str:
    return f"version {running.version}"


def _users_upto(step: Step, stage: int) -> dict[str, Any]:
    """
    Return up to where affected users were told in the release, which begins for them with its first weight.

    Later stages go on from the look before: who is affected between the route and the first look is theirs.
    """
    if not reading.are_told(step, stage):
        return {}
    earlier = step.running.stages[: step.running.stages.index(stage)]
    before = step.looks.read(earlier[-1])[0] if earlier else None
    if before is not None and before.users:
        return before.users
    found = step.router.affected_users(step.model, step.running.version, stage, {})
    return dict(found.upto) if found else {}


def _open_looks(step: Step, stage: int, users: dict[str, Any]) -> None:
    """Write the counters at the start of the stage; a second try of the step keeps the first's."""
    looks, etag = step.looks.read(stage)
    if looks is not None:
        return
    arms = step.router.counters(step.release.model, step.spec.serving.fleet_pair)
    counters = {fleet: asdict(arm) for fleet, arm in arms.items()}
    began = StageLooks(stage=stage, started_at=step.store.now(), baseline=counters, counters=counters, users=users)
    step.looks.write(began, etag)

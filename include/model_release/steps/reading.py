"""
What a look reads: the router's counters of both arms, and beside them what some gates ask of others.

The router's own are of one scrape; the users' counters of one instant of their source. What cannot be read is no
evidence, and is said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from model_release.errors import MetricsUnavailable, RouterUnavailable
from model_release.gates.looks import Arm, Look, Proportion, difference, difference_by_router
from model_release.gates.sources import ArmOf, Counted, since
from model_release.gates.sources.prometheus import PrometheusSource
from model_release.gates.users import are_shared
from model_release.ledger.looks import StageLooks
from model_release.spec import ProportionGate
from model_release.steps.answers import ask
from model_release.steps.context import Sight, Step
from model_release.steps.route import try_timeout_s
from model_release.traffic.envoy_counts import total
from model_release.traffic.router import AffectedUsers, ArmCounters, ByArm, Slow, SlowBound

log = logging.getLogger(__name__)

_SEVERAL = 2
#: So many bad requests have to be in the log after so long: Envoy may keep lines for ten seconds.
_MANY, _LATE_S = 10, 20.0
Routers = Mapping[str, Mapping[str, ArmCounters]]


@dataclass(frozen=True)
class Read:
    """A look, the fields of the stage's record that the next look goes on from, and what could not be read."""

    look: Look
    kept: dict[str, Any]
    troubles: list[str]


def read(step: Step, looks: StageLooks, **how: Any) -> Read:
    """
    Read everything once; `how` is that of `difference`: stable's and the canary's fleet, t, stage.

    Raises RouterUnavailable, MetricsUnavailable when no router answers.
    """
    pair = step.spec.serving.fleet_pair
    after = step.router.counters_by_router(step.model, pair)
    total = summed(after)
    if looks.routers:
        before = {name: _counters(arms) for name, arms in looks.routers.items()}
        look = difference_by_router(before, after, **how)
    else:
        look = difference(_counters(looks.counters), total, **how)
    kept: dict[str, Any] = {
        "counters": {fleet: asdict(arm) for fleet, arm in total.items()},
        "routers": {name: {fleet: asdict(arm) for fleet, arm in arms.items()} for name, arms in after.items()},
    }
    by_replica, kept["by_replica"] = replicas_of(step, how["stable"], looks.by_replica)
    look, kept["own"], troubles = _own_counters(step, look, looks.own)
    look, users, why = _by_user(step, looks, look)
    kept |= users
    asked = ask(step, looks)
    look = replace(look, paired=asked.paired, stable_by_replica=by_replica)
    return Read(look, kept, [*troubles, *why, *asked.troubles])


def _by_user(step: Step, looks: StageLooks, look: Look) -> tuple[Look, dict[str, Any], list[str]]:
    """
    Add who was affected since the look before, where the router tells; a look that says nothing leaves it to the next.

    A log that cannot be read is waited for: nobody is told to be affected, and those who were are told later. One that
    has told nothing for a while, while the router counts bad requests, is not waited for: the look tells of no users,
    so that the canary is judged by its requests.
    """
    missed = _missed(looks, look.t - _LATE_S, step.running.slow_ms)
    try:
        found = affected_users(step, looks)
        why = "its log tells of none; `router.user_log` has to be the file that Envoy writes"
    except RouterUnavailable as error:
        nobody = tuple(ByArm() for _ in step.running.user_bounds_ms)
        found, why = AffectedUsers(ByArm(), nobody, looks.users), str(error)
    if found is None or look.note:
        return look, {}, []
    if not found.told and missed >= _MANY:
        told = f"users: the canary is judged by request: the router counted {missed} bad ones of it, and {why}"
        return look, {}, [told]
    slow_ms = step.running.user_bounds_ms
    canary, stable = (
        replace(
            getattr(look, arm),
            failed_users=getattr(found.failed, arm),
            slow_users=tuple(getattr(by_arm, arm) for by_arm in found.slow) if slow_ms else None,
        )
        for arm in ("canary", "stable")
    )
    look = replace(
        look,
        canary=canary,
        stable=stable,
        slow_ms=slow_ms,
        failed_by_window=found.failed.windows,
        slow_by_window=tuple(by_arm.windows for by_arm in found.slow) if slow_ms else (),
    )
    kept = {"users": dict(found.upto), "users_heard_t": look.t if found.told else looks.users_heard_t}
    troubles = [] if found.failed.canary else [f"users: source_down: {why}"]
    return look, kept, troubles


def _missed(looks: StageLooks, until_t: float, slow_ms: Sequence[SlowBound]) -> int:
    """Return how many bad requests of the canary the router had counted by then, since its log told of any."""
    heard_t, missed = looks.users_heard_t, 0
    for each in looks.looks:
        if each["t"] <= until_t and (heard_t is None or each["t"] > heard_t):
            missed += int(each["canary"]["errors"]) + _slow(each["canary"].get("latency_buckets", {}), slow_ms)
    return missed


def _slow(buckets: Mapping[str, int], slow_ms: Sequence[SlowBound]) -> int:
    """Return how many of the canary's requests were slow for their users, as far as buckets can tell."""
    least_ms = min((bound.canary_ms for bound in slow_ms), default=math.inf)
    beyond = [count for bound, count in buckets.items() if float(bound) >= least_ms]
    return int(max(beyond) - min(beyond)) if beyond else 0


def affected_users(step: Step, looks: StageLooks) -> AffectedUsers | None:
    """
    Return who was affected since the look before; None where arms share no users, or the router tells none apart.

    Raises RouterUnavailable.
    """
    if not are_told(step, looks.stage):
        return None
    canary = step.claim.check().canary
    if canary is None:
        return None
    warm_s = looks.started_at.timestamp() + step.spec.canary.warmup_s
    slow = Slow(step.running.user_bounds_ms, warm_s, try_timeout_s(step.spec))
    return step.router.affected_users(step.model, canary.version, looks.stage, looks.users, slow)


def are_told(step: Step, stage: int) -> bool:
    """Whether a stage is to be judged by users too, if the router tells of them."""
    return step.spec.canary.sticky_header is not None and not step.running.judged_alone and are_shared(stage)


def summed(routers: Routers) -> dict[str, ArmCounters]:
    """Return the counters by fleet over all routers."""
    fleets = next(iter(routers.values()))
    return {fleet: total([arms[fleet] for arms in routers.values()]) for fleet in fleets}


def _counters(arms: Mapping[str, Any]) -> dict[str, ArmCounters]:
    return {fleet: ArmCounters(**arm) for fleet, arm in arms.items()}


def replicas_of(
    sight: Sight, stable: str | None, before: Mapping[str, tuple[int, int]]
) -> tuple[tuple[Arm, ...], dict[str, tuple[int, int]]]:
    """
    Return what each of stable's replicas did since `before`, and their counters now, as (requests, failed ones).

    They tell only how failures clump, so it does no harm that they are of another instant than the arms. Empty where
    there is but one, or one of them began anew.
    """
    if stable is None:
        return (), {}
    try:
        after = sight.router.counters_by_replica(sight.model, sight.spec.serving.fleet_pair)[stable]
    except (RouterUnavailable, MetricsUnavailable) as error:
        log.warning("stable's replicas are not told apart: %s", error)
        return (), dict(before)
    if len(after) < _SEVERAL or set(after) != set(before):
        return (), after
    since = [(n - before[name][0], bad - before[name][1]) for name, (n, bad) in after.items()]
    whole = all(0 <= bad <= n for n, bad in since)
    return tuple(Arm(n, bad) for n, bad in since) if whole else (), after


def _own_counters(step: Step, look: Look, before: Mapping[str, Any]) -> tuple[Look, dict[str, Any], list[str]]:
    """Add the users' own counters of both arms, by gate."""
    gates = {g.name: g.source for g in step.spec.canary.gates if isinstance(g, ProportionGate) and g.source}
    metrics = step.environment.metrics
    if not gates or metrics is None:
        return look, {}, []
    state = step.claim.check()
    if state.canary is None:
        return look, {}, []
    arms = {"canary": ArmOf(step.model, state.canary.version, state.canary.fleet)}
    if state.stable is not None:
        arms["stable"] = ArmOf(step.model, state.stable.version, state.stable.fleet)
    source = PrometheusSource(metrics, step.environment.call_timeout_s)
    kept, troubles = dict(before), []
    counted: dict[str, dict[str, Proportion]] = {"canary": {}, "stable": {}}
    for name, asked in gates.items():
        try:
            now = source.read({name: asked}, arms)[name]
        except MetricsUnavailable as error:
            troubles.append(f"{name}: source_down: {error}")
            continue
        found = since({arm: Counted(**raw) for arm, raw in before.get(name, {}).items()}, now)
        kept[name] = {arm: asdict(raw) for arm, raw in now.items()}
        for arm, proportion in (found or {}).items():
            counted[arm][name] = proportion
    canary, stable = (replace(getattr(look, arm), proportions=counted[arm]) for arm in ("canary", "stable"))
    return replace(look, canary=canary, stable=stable), kept, troubles

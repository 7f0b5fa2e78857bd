"""The route of a model, as the ledger's roles make it: intent first, then the router, then confirmed."""

from __future__ import annotations

from typing import Any

from model_release.environment import FLEETS
from model_release.ledger.state import State, WeightRecord, Weights
from model_release.spec import ModelSpec
from model_release.steps.context import Sight, Step
from model_release.steps.ease_back import ease_back
from model_release.traffic.router import CROSS_ARM_RETRY, MIRROR, Route

CONFIRM_TIMEOUT_S = 15
_TRIES_OF_P99 = 20
_LEAST_TRY_S, _LONGEST_TRY_S = 1.0, 30.0


def route_of(state: State, sight: Sight, *, canary_percent: int, shadow_percent: int = 0) -> Route:
    """
    Return the route that gives the canary its share and stable the rest; without either, no weight at all.

    A canary without weight may have a shadow of stable's requests; one with all of it has a control, where the router
    can mirror.
    """
    weights: dict[str, int] = dict.fromkeys(FLEETS, 0)
    versions: dict[str, int | None] = dict.fromkeys(FLEETS)
    if state.stable is not None:
        weights[state.stable.fleet] = 100 - canary_percent
        versions[state.stable.fleet] = state.stable.version
    if state.canary is not None:
        weights[state.canary.fleet] = canary_percent
        versions[state.canary.fleet] = state.canary.version
    return Route(
        model=state.model,
        pair=sight.spec.serving.fleet_pair,
        epoch=state.epoch,
        stable=state.stable.fleet if state.stable else None,
        canary=state.canary.fleet if state.canary else None,
        weights=weights,
        versions=versions,
        **_between_arms(state, sight, canary_percent, shadow_percent),
    )


def _between_arms(state: State, sight: Sight, canary_percent: int, shadow_percent: int) -> dict[str, Any]:
    """Return what a route says of its two arms beyond their weights; nothing unless it has two."""
    if state.stable is None or state.canary is None:
        return {}
    spec, able = sight.spec, sight.router.capabilities
    mirrored = {
        state.canary.fleet: shadow_percent if canary_percent == 0 else 0,
        state.stable.fleet: spec.canary.control_percent if canary_percent == 100 else 0,
    }
    return {
        "sticky_header": spec.canary.sticky_header,
        "slow_ms": min(state.release.slow_ms, default=None) if state.release else None,
        "often_ms": state.release.often_ms if state.release else None,
        "try_timeout_s": try_timeout_s(spec) if CROSS_ARM_RETRY in able else None,
        "mirrored": {fleet: percent for fleet, percent in mirrored.items() if percent} if MIRROR in able else {},
    }


def try_timeout_s(spec: ModelSpec) -> float:
    """
    Return how long the canary has for an answer before stable is asked.

    As the spec says, else 20 times the slowest p99 that it calls good, in any case 1 to 30 s: a request that is only
    slow is the latency gate's, one that hangs shall not keep its client.
    """
    if spec.canary.try_timeout_s is not None:
        return spec.canary.try_timeout_s
    gates = [gate.objective.p99_ms for gate in spec.canary.gates if gate.kind == "latency"]
    slowest_ms = max([spec.benchmark.objective.p99_ms, *gates])
    return min(max(_LEAST_TRY_S, _TRIES_OF_P99 * slowest_ms / 1000), _LONGEST_TRY_S)


def apply_route(step: Step, route: Route, *, easing: bool = False) -> None:
    """
    Write the intent, set the route, and confirm it on every router; `easing` when it brings traffic back to stable.

    Raises Superseded, RouteTakenOver, RouterUnavailable, RouteNotConfirmed.
    """
    weights = Weights(**route.weights)
    step.update(weights=WeightRecord(intent=weights, confirmed=None, epoch=route.epoch))
    if easing:
        ease_back(step.router, step.environment, route)
    step.router.set(route)
    step.router.confirm(route, CONFIRM_TIMEOUT_S)
    step.update(weights=WeightRecord(intent=weights, confirmed=weights, epoch=route.epoch))

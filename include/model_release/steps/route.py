"""The route of a model, as the ledger's roles make it: intent first, then the router, then confirmed."""

from __future__ import annotations

from model_release.environment import FLEETS
from model_release.ledger.state import State, WeightRecord, Weights
from model_release.steps.context import Sight, Step
from model_release.traffic.router import Route

CONFIRM_TIMEOUT_S = 15


def route_of(state: State, sight: Sight, *, canary_percent: int) -> Route:
    """Return the route that gives the canary its share and stable the rest; without either, no weight at all."""
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
    )


def apply_route(step: Step, route: Route) -> None:
    """
    Write the intent, set the route, and confirm it on every router.

    Raises Superseded, RouteTakenOver, RouterUnavailable, RouteNotConfirmed.
    """
    weights = Weights(**route.weights)
    step.update(weights=WeightRecord(intent=weights, confirmed=None, epoch=route.epoch))
    step.router.set(route)
    step.router.confirm(route, CONFIRM_TIMEOUT_S)
    step.update(weights=WeightRecord(intent=weights, confirmed=weights, epoch=route.epoch))

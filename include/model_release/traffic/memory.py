"""A router in memory, for tests of what stands on the port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_release.environment import FLEETS
from model_release.errors import RouteNotConfirmed, RouteTakenOver
from model_release.traffic.router import (
    ARM_COUNTERS,
    CROSS_ARM_RETRY,
    MIRROR,
    NOTHING_SLOW,
    STICKY,
    AffectedUsers,
    ArmCounters,
    Route,
    Slow,
)


class MemoryRouter:
    """Holds routes in a dict; the test says what its fleets counted with `count`."""

    capabilities = frozenset({ARM_COUNTERS, STICKY, CROSS_ARM_RETRY, MIRROR})

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self._counted: dict[tuple[str, str], ArmCounters] = {}

    def read(self, model: str) -> Route | None:
        """Return the route that was last set, or None."""
        return self.routes.get(model)

    def set(self, route: Route) -> None:
        """Replace the route. Raises RouteTakenOver when it carries a newer epoch."""
        held = self.routes.get(route.model)
        if held is not None and held.epoch > route.epoch:
            raise RouteTakenOver(route.model, route.epoch, held.epoch)
        self.routes[route.model] = route

    def confirm(self, route: Route, timeout_s: float) -> None:  # noqa: ARG002 - the port's signature
        """Raise RouteNotConfirmed unless this is the route that was last set."""
        held = self.routes.get(route.model)
        if held != route:
            raise RouteNotConfirmed(route.model, f"the router holds {held}")

    def counters(self, model: str, pair: str) -> dict[str, ArmCounters]:  # noqa: ARG002 - the port's signature
        """Return what `count` was told, zero at first."""
        return {fleet: self._counted.get((model, fleet), ArmCounters(0, 0)) for fleet in FLEETS}

    def counters_by_router(self, model: str, pair: str) -> dict[str, dict[str, ArmCounters]]:
        """Return the counters of its only router."""
        return {"memory": self.counters(model, pair)}

    def counters_by_replica(self, model: str, pair: str) -> dict[str, dict[str, tuple[int, int]]]:  # noqa: ARG002
        """Return nothing: it has no replicas."""
        return {fleet: {} for fleet in FLEETS}

    def affected_users(
        self,
        model: str,  # noqa: ARG002
        version: int,  # noqa: ARG002
        percent: int,  # noqa: ARG002
        since: Mapping[str, Any],  # noqa: ARG002
        slow: Slow = NOTHING_SLOW,  # noqa: ARG002
    ) -> AffectedUsers | None:
        """Return None: it does not tell users apart."""
        return None

    def count(self, model: str, fleet: str, counters: ArmCounters) -> None:
        """Let a fleet have counted so much since the start."""
        self._counted[model, fleet] = counters

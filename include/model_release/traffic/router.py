"""The port to the router: what a route is, what it counts, and what every router must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_release.environment import FLEETS

ARM_HEADER = "x-model-arm"
VERSION_HEADER = "x-model-version"
FORCE_HEADER = "x-model-force-arm"
MODEL_HEADER = "x-model"

ARMS = ("stable", "canary")


def nothing_released(model: str) -> str:
    """Return the sentence that a router answers with (HTTP 503, gRPC UNAVAILABLE) while no version has weight."""
    return f"no released version of {model}"


def no_pins(model: str) -> str:
    """Return the sentence that a router answers with (HTTP 404) to a request that names a version."""
    return (
        f"a request for {model} names no version here, since a canary moves requests from one to the next: ask "
        f"/v2/models/{model}/infer, and read the response's {VERSION_HEADER}. A version that breaks clients is served "
        "under a model name of its own"
    )


@dataclass(frozen=True)
class Route:
    """
    How the requests of one model are shared between its two fleets.

    `weights` are percent and sum to 100, or to 0: then no version is released and every request is answered with
    `nothing_released`. A fleet has weight only with a version. Raises ValueError for a route that no router can hold.
    """

    model: str
    pair: str
    epoch: int
    stable: str | None
    canary: str | None
    weights: Mapping[str, int]
    versions: Mapping[str, int | None]

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            message = f"no such route of {self.model}: {problem}"
            raise ValueError(message)

    @property
    def released(self) -> bool:
        """Whether any version has weight."""
        return sum(self.weights.values()) > 0

    def arm(self, fleet: str) -> str | None:
        """Return `stable` or `canary`, the role of a fleet; None for a fleet that has neither."""
        return {self.stable: "stable", self.canary: "canary"}.get(fleet)

    def to_dict(self) -> dict[str, Any]:
        """Return the route as JSON values."""
        return {**self.__dict__, "weights": dict(self.weights), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Route:
        """
        Read what `to_dict` wrote; numbers may have become floats on the way.

        Raises ValueError, KeyError or TypeError when it is no route.
        """
        versions = {fleet: None if number is None else int(number) for fleet, number in values["versions"].items()}
        return cls(
            model=str(values["model"]),
            pair=str(values["pair"]),
            epoch=int(values["epoch"]),
            stable=values["stable"],
            canary=values["canary"],
            weights={fleet: int(weight) for fleet, weight in values["weights"].items()},
            versions=versions,
        )


def _problem(route: Route) -> str | None:
    """Return what is wrong with a route, or None."""
    roles = [fleet for fleet in (route.stable, route.canary) if fleet is not None]
    if any(fleet not in FLEETS for fleet in roles) or len(roles) != len(set(roles)):
        return f"stable {route.stable!r} and canary {route.canary!r} must be two different ones of {', '.join(FLEETS)}"
    if set(route.weights) != set(FLEETS) or set(route.versions) != set(FLEETS):
        return f"weights {dict(route.weights)} and versions {dict(route.versions)} must name {' and '.join(FLEETS)}"
    if any(weight < 0 for weight in route.weights.values()) or sum(route.weights.values()) not in (0, 100):
        return f"weights {dict(route.weights)} must sum to 100, or to 0"
    for fleet, weight in route.weights.items():
        if weight and (fleet not in roles or route.versions[fleet] is None):
            return f"{fleet} has weight {weight} without a role and a version"
    return None


@dataclass(frozen=True)
class ArmCounters:
    """
    What a router counted for one fleet of one model since it started.

    `latency_buckets` maps an upper bound in ms, as text, to the requests below it, and "+Inf" to all; a request that
    got no answer is in "+Inf" only. `generation` names the router processes: counters of two generations do not
    compare.
    """

    requests: int
    errors: int
    latency_buckets: Mapping[str, int] = field(default_factory=dict)
    generation: str = ""


class Router(Protocol):
    """What carries clients' requests to the fleets."""

    def read(self, model: str) -> Route | None:
        """Return the route that was last set, or None for a model that has none."""

    def set(self, route: Route) -> None:
        """
        Replace the route of a model, in one piece for all protocols.

        Raises RouteTakenOver when a newer epoch wrote the model's route; an equal epoch may write again.
        """

    def confirm(self, route: Route, timeout_s: float) -> None:
        """
        Wait until every router process serves by this route.

        Raises RouteNotConfirmed after timeout_s seconds, RouterUnavailable when one does not answer.
        """

    def counters(self, model: str, pair: str) -> dict[str, ArmCounters]:
        """Return the counters by fleet, read at one instant for both fleets of the pair and summed over routers."""

"""The port to the router: what a route is, what it counts, and what every router must do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from model_release.environment import FLEETS

ARM_HEADER = "x-model-arm"
VERSION_HEADER = "x-model-version"
FORCE_HEADER = "x-model-force-arm"
MODEL_HEADER = "x-model"

ARMS = ("stable", "canary")

# What a router may be able to do beyond sharing requests by weight; `plan` refuses a spec that needs what it lacks.
ARM_COUNTERS = "per-arm counters"
STICKY = "sticky arms"
CROSS_ARM_RETRY = "cross-arm retry"
MIRROR = "mirroring"
USERS = "affected users"


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


class SlowBound(NamedTuple):
    """Beyond which time (ms) a request is slow for its user: the canary's may be longer by what is allowed."""

    canary_ms: float
    stable_ms: float

    def of(self, arm: str | None) -> float:
        """Return the bound (ms) of an arm."""
        return self.canary_ms if arm == "canary" else self.stable_ms


def of_both_arms(bound: Any) -> Any:
    """Return the pair of a SlowBound; one number, as was written before each arm had its own, is of both."""
    return (bound, bound) if isinstance(bound, int | float) else bound


@dataclass(frozen=True)
class Route:
    """
    How the requests of one model are shared between its two fleets.

    `weights` are percent and sum to 100, or to 0: then no version is released and every request is answered with
    `nothing_released`. A fleet has weight only with a version. Raises ValueError for a route that no router can hold.

    Requests with the header `sticky_header` go by its value: whose value is on the canary at one weight is there at
    every higher one, and who comes first is another with each version. Requests without it go by chance, each for
    itself. What the canary fails to answer, or does not answer within `try_timeout_s`, is asked of stable, where a
    router can. A fleet in `mirrored` is sent so many percent of all requests a second time, and nobody waits for its
    answers. Where a router tells of affected users, it is to tell of their requests beyond `slow_ms`, and
    of a sample of those beyond `often_ms`; None: of none.
    """

    model: str
    pair: str
    epoch: int
    stable: str | None
    canary: str | None
    weights: Mapping[str, int]
    versions: Mapping[str, int | None]
    sticky_header: str | None = None
    try_timeout_s: float | None = None
    mirrored: Mapping[str, int] = field(default_factory=dict)
    slow_ms: SlowBound | None = None
    often_ms: SlowBound | None = None

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

    @property
    def falls_back(self) -> bool:
        """Whether there is a stable version to ask what the canary fails to answer."""
        return all(fleet is not None and self.versions[fleet] is not None for fleet in (self.stable, self.canary))

    def to_dict(self) -> dict[str, Any]:
        """Return the route as JSON values."""
        copied = {name: dict(getattr(self, name)) for name in ("weights", "versions", "mirrored")}
        return {**self.__dict__, **copied}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Route:
        """
        Read what `to_dict` wrote, also before it had all of the fields; numbers may have become floats on the way.

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
            sticky_header=values.get("sticky_header"),
            try_timeout_s=values.get("try_timeout_s"),
            mirrored={fleet: int(percent) for fleet, percent in values.get("mirrored", {}).items()},
            **{each: SlowBound(*of_both_arms(values[each])) for each in ("slow_ms", "often_ms") if values.get(each)},
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
    for fleet, percent in route.mirrored.items():
        if not 0 < percent <= 100 or fleet not in roles or route.versions[fleet] is None or route.weights[fleet]:
            return f"{fleet} cannot be mirrored {percent} %: that takes a role and a version, and no weight"
    return None


@dataclass(frozen=True)
class ArmCounters:
    """
    What a router counted for one fleet of one model since it started.

    `latency_buckets` maps an upper bound in ms, as text, to the requests below it, and "+Inf" to all; a request that
    got no answer, or none of the canary within its time, is in "+Inf" only; one that stable answered in the canary's
    place for another reason is in none. `generation` names the router processes: counters of two generations do not
    compare. `mirrored_*` are of the requests that the fleet was sent a second time: no client saw their answers, and
    they are in none of the others.
    """

    requests: int
    errors: int
    latency_buckets: Mapping[str, int] = field(default_factory=dict)
    generation: str = ""
    mirrored_requests: int = 0
    mirrored_errors: int = 0
    mirrored_latency_buckets: Mapping[str, int] = field(default_factory=dict)

    @property
    def mirrored(self) -> ArmCounters:
        """The mirrored requests alone, as an arm of their own."""
        buckets = self.mirrored_latency_buckets
        return ArmCounters(self.mirrored_requests, self.mirrored_errors, buckets, self.generation)


SPAN_S = 2
"""A user is affected once in a span of the clock at the most: one crash is one time."""

USER_LEVELS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024)
"""At which time that a user is affected in a stage he is told of: in so many spans."""

WINDOW_MINUTES = (1, 4, 16)
"""How long windows of the clock are, in each of which all users begin anew; windows of a length follow each other."""


def levels_within(minutes: int) -> tuple[int, ...]:
    """Return the levels that a user can come to in a window."""
    return tuple(level for level in USER_LEVELS if level <= minutes * 60 // SPAN_S)


Levels = Sequence[int]
"""How many users came to each level."""


class Window(NamedTuple):
    """How many users of each arm's share came to each of its levels in the window of Unix time with a number."""

    minutes: int
    number: int
    canary: Levels
    stable: Levels


class ByArm(NamedTuple):
    """How many users of each arm's share came to each of USER_LEVELS in the stage, and how many in windows of it."""

    canary: Levels = ()
    stable: Levels = ()
    windows: tuple[Window, ...] = ()


class Slow(NamedTuple):
    """
    Which requests are slow for their users: beyond each bound, from a time on (Unix time, s): warm ones.

    What stable answered in the canary's place after `tried_for_s` was waited for too: the canary hung.
    """

    bounds_ms: tuple[SlowBound, ...] = ()
    from_s: float = 0.0
    tried_for_s: float = math.inf


NOTHING_SLOW = Slow()


@dataclass(frozen=True)
class AffectedUsers:
    """
    Whom the arms failed since an earlier reading, and who waited longer than each bound that was asked for.

    Times are counted in a stage, where a user of the canary comes to a level once in a release, and in windows. A
    request that does not say whose it is counts as a user of its own. `upto` is where the next reading goes on from, as
    JSON values; `told` is of how many bad requests this one knew that the one before did not.
    """

    failed: ByArm
    slow: tuple[ByArm, ...]
    upto: Mapping[str, Any]
    told: int = 0


class Router(Protocol):
    """What carries clients' requests to the fleets."""

    capabilities: frozenset[str]
    """What it can do of ARM_COUNTERS, STICKY, CROSS_ARM_RETRY, MIRROR and USERS."""

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

    def counters_by_router(self, model: str, pair: str) -> dict[str, dict[str, ArmCounters]]:
        """
        Return the counters by router and fleet; each router's are of one instant. One that does not answer is left out.

        Raises RouterUnavailable when none answers.
        """

    def counters_by_replica(self, model: str, pair: str) -> dict[str, dict[str, tuple[int, int]]]:
        """
        Return what each replica was sent, by fleet and replica: (requests, failed ones), summed over routers.

        Empty where a router does not tell replicas apart.
        """

    def affected_users(
        self, model: str, version: int, percent: int, since: Mapping[str, Any], slow: Slow = NOTHING_SLOW
    ) -> AffectedUsers | None:
        """
        Return who was affected since `since`: `upto` of an earlier reading, or empty where the release begins.

        Counted are those at this version of the canary and this weight of it (percent).

        None where the router has not USERS. Raises RouterUnavailable when it cannot be known now.
        """

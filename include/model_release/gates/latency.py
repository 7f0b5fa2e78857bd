"""
Latency bounds: which latencies a stage counts as slow.

They are fixed before anything is judged by them, from stable alone, so that the data under test cannot choose them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from model_release.gates.looks import INFINITE, Arm
from model_release.traffic.router import SlowBound

QUANTILES = (0.50, 0.95, 0.99)
USERS_QUANTILES = (0.75, 0.95, 0.99)
"""Of requests, those beyond which they are slow for their users: rarer ones say more of a user who asks often."""

ENOUGH_REQUESTS = 200
"""Stable's requests that its own quantiles are read from."""

_FINE_MS = 2.0
_FINE_RATIO = 1.25


def bounds_from(buckets: Mapping[str, int], quantiles: Sequence[float] = QUANTILES) -> list[float] | None:
    """
    Return the bucket bounds (ms) nearest to some quantiles of cumulative buckets, rising.

    None while they hold fewer than ENOUGH_REQUESTS requests.
    """
    total, finite = buckets.get(INFINITE, 0), _finite(buckets)
    if total < ENOUGH_REQUESTS or not finite:
        return None
    bounds: list[float] = []
    for quantile in quantiles:
        nearest = min(sorted(finite), key=lambda bound: abs(buckets[finite[bound]] / total - quantile))
        if nearest not in bounds:
            bounds.append(nearest)
    return sorted(bounds)


class Allowed(NamedTuple):
    """How a bound is compared: the canary's bound and stable's (ms), and how far the odds of being slower may rise."""

    canary_ms: float
    stable_ms: float
    odds_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Return what the bounds really allow: how much slower (1.1 is 10 %), or what odds ratio at the same bound."""
        return {**self._asdict(), "slower_than": self.canary_ms / self.stable_ms if self.odds_ratio == 1 else None}


def comparison(bound_ms: float, slower_than: float, known_ms: Sequence[float]) -> Allowed:
    """
    Return the canary's bound, stable's bound (ms) and the allowed odds ratio that together allow `slower_than`.

    With fine buckets the canary is held to the next bound at or above `slower_than` times stable's: its quantiles may
    then be that much slower and no more. Where the next bound is much further the same bound is used for both, and the
    odds of being slower may rise instead, as they do at the tail of usual latencies.
    """
    own = min(known_ms, key=lambda known: abs(known - bound_ms))
    wanted = own * slower_than
    above = [known for known in known_ms if known >= wanted * (1 - 1e-9)]
    if above and above[0] <= max(wanted * _FINE_RATIO, wanted + _FINE_MS):
        return Allowed(above[0], own, 1.0)
    return Allowed(own, own, slower_than**3)


class SlowForUsers(NamedTuple):
    """
    Beyond which latencies a request is slow for its user, rising.

    Beyond `bounds_ms` requests are rare, as those beyond stable's p95 and p99 are. Beyond `often_ms` they are not: a
    router need tell of a sample of them.
    """

    often_ms: SlowBound | None
    bounds_ms: list[SlowBound]


def slow_for_users(
    buckets: Mapping[str, int], slower_than: float, given_ms: Sequence[float] = ()
) -> SlowForUsers | None:
    """
    Return what is slow for users, by stable's cumulative buckets; None while they hold too few requests.

    Each arm has bounds of its own, so that a canary that is slower by no more than allowed has no more slow requests
    than stable. One whose few very slow requests stable's p99 hides crosses those of `given_ms`, a gate's own bounds,
    that are rarer still; what is not rare is not told of in whole.
    """
    usual_ms = bounds_from(buckets, USERS_QUANTILES)
    if not usual_ms:
        return None
    several, known_ms = len(usual_ms) > 1, sorted(_finite(buckets))
    tail_ms = usual_ms[1:] if several else usual_ms
    rare_ms = [*tail_ms, *(bound_ms for bound_ms in given_ms if bound_ms > tail_ms[0])]
    bounds = sorted({_allowed_for_users(bound_ms, slower_than, known_ms) for bound_ms in rare_ms})
    return SlowForUsers(_allowed_for_users(usual_ms[0], slower_than, known_ms) if several else None, bounds)


def _allowed_for_users(bound_ms: float, slower_than: float, known_ms: Sequence[float]) -> SlowBound:
    """Return the bounds of both arms that allow what requests' do; where those allow odds at one bound, the factor."""
    allowed = comparison(bound_ms, slower_than, known_ms)
    return SlowBound(max(allowed.canary_ms, allowed.stable_ms * slower_than), allowed.stable_ms)


def slower(arm: Arm, bound_ms: float) -> tuple[int, int]:
    """Return an arm's timed requests, and those slower than a bucket bound; none when it has no such bucket."""
    bound = _finite(arm.latency_buckets).get(bound_ms)
    return (0, 0) if bound is None else (arm.timed, arm.timed - arm.latency_buckets[bound])


def at_worst(stable: Arm, bound_ms: float) -> tuple[int, int]:
    """
    Return stable's answered requests, and those slower than a bound if none of the slow ones failed.

    A router times what stable failed too, and of the canary's only what it answered itself: fast failures of both would
    make stable seem the faster.
    """
    timed, slow = slower(stable, bound_ms)
    return max(slow, timed - stable.errors), slow


def known_bounds(arm: Arm) -> list[float]:
    """Return the bucket bounds (ms) of a look, rising."""
    return sorted(_finite(arm.latency_buckets))


def pooled(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of two looks' buckets."""
    return {bound: one.get(bound, 0) + other.get(bound, 0) for bound in {**one, **other}}


def _finite(buckets: Mapping[str, int]) -> Mapping[float, str]:
    return _finite_of(tuple(buckets))


@lru_cache(maxsize=64)
def _finite_of(names: tuple[str, ...]) -> Mapping[float, str]:
    """A router's bounds are the same at every look, and a stage is replayed at each."""
    return {float(bound): bound for bound in names if bound != INFINITE}

"""A look: what both arms did since the look before, counted at one instant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from model_release.errors import LookUnusable
from model_release.traffic.router import ArmCounters

INFINITE = "+Inf"


@dataclass(frozen=True)
class Arm:
    """One arm's requests: how many, how many failed, and how many were below each latency bound (ms, cumulative)."""

    requests: int = 0
    errors: int = 0
    latency_buckets: Mapping[str, int] = field(default_factory=dict)

    @property
    def timed(self) -> int:
        """How many requests have a latency, or were given up."""
        return self.latency_buckets.get(INFINITE, 0)

    @classmethod
    def from_dict(cls, values: Any) -> Arm:
        """Read an arm of a look. Raises LookUnusable."""
        try:
            buckets = {str(bound): int(count) for bound, count in values["latency_buckets"].items()}
            arm = cls(int(values["requests"]), int(values["errors"]), buckets)
            ordered = [arm.latency_buckets[bound] for bound in sorted(buckets, key=float)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LookUnusable(f"{type(error).__name__}: {error} in {values!r}") from None
        if not 0 <= arm.errors <= arm.requests:
            raise LookUnusable(f"{arm.errors} errors of {arm.requests} requests")
        if ordered != sorted(ordered) or (ordered and (ordered[0] < 0 or INFINITE not in buckets)):
            raise LookUnusable(f"latency_buckets {buckets} are not cumulative up to {INFINITE!r}")
        return arm


@dataclass(frozen=True)
class Look:
    """
    One reading of a stage, `t` seconds after its start: counts since the look before.

    `note` says why a look is empty when it is not for want of traffic. Stable's counts by replica, where they are
    known, tell how its bad requests clump.
    """

    t: float
    stage: int
    canary: Arm = Arm()
    stable: Arm = Arm()
    note: str = ""
    stable_by_replica: tuple[Arm, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the look as one JSON line holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Look:
        """Read what `to_dict` wrote; keys of other kinds of gates are left alone. Raises LookUnusable."""
        try:
            t, stage = float(values["t"]), int(values["stage"])
        except (KeyError, TypeError, ValueError) as error:
            raise LookUnusable(f"{type(error).__name__}: {error}") from None
        if not math.isfinite(t):
            raise LookUnusable(f"t is {t}")
        empty = {"requests": 0, "errors": 0, "latency_buckets": {}}
        canary, stable = (Arm.from_dict(values.get(arm) or empty) for arm in ("canary", "stable"))
        replicas = values.get("stable_by_replica") or ()
        if not isinstance(replicas, list | tuple):
            raise LookUnusable(f"stable_by_replica is a {type(replicas).__name__}")
        by_replica = tuple(Arm.from_dict(replica) for replica in replicas)
        return cls(t, stage, canary, stable, str(values.get("note", "")), by_replica)


def difference(
    before: Mapping[str, ArmCounters],
    after: Mapping[str, ArmCounters],
    stable: str | None,
    canary: str | None,
    t: float,
    stage: int,
) -> Look:
    """
    Return the look between two readings of the counters.

    A router that started again in between makes the look empty for both arms: half of it would favour one of them.
    """
    own, other = (_since(_of(before, fleet), _of(after, fleet)) for fleet in (canary, stable))
    if own is None or other is None:
        return Look(t, stage, note="the router's counters started again")
    return Look(t, stage, own, other)


def _of(counters: Mapping[str, ArmCounters], fleet: str | None) -> ArmCounters:
    return counters.get(fleet or "", ArmCounters(0, 0))


def _since(before: ArmCounters, after: ArmCounters) -> Arm | None:
    """Return what was counted in between, or None when the counters are of different processes."""
    if before.generation and before.generation != after.generation:
        return None
    requests, errors = after.requests - before.requests, after.errors - before.errors
    buckets = {bound: count - before.latency_buckets.get(bound, 0) for bound, count in after.latency_buckets.items()}
    if min(requests, errors, *buckets.values()) < 0:
        return None
    # The router may count a request and its error on either side of a reading.
    return Arm(requests, min(errors, requests), buckets)

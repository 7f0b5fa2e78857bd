"""A look: what both arms did since the look before, counted at one instant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from model_release.errors import LookUnusable
from model_release.traffic.router import ArmCounters, SlowBound, Window

INFINITE = "+Inf"
WHOLE = 100
_NOTHING = {"requests": 0, "errors": 0, "latency_buckets": {}}


@dataclass(frozen=True)
class Proportion:
    """Events of a gate's own counters: the good ones, and all."""

    good: int = 0
    total: int = 0

    @classmethod
    def from_dict(cls, values: Any) -> Proportion:
        """Read one gate's counts. Raises LookUnusable."""
        good, total = _whole(values, "good", "total")
        if good > total:
            raise LookUnusable(f"{good} good ones of {total}")
        return cls(good, total)


@dataclass(frozen=True)
class Paired:
    """
    Samples that both arms answered: how many the canary alone got right, both or neither, stable alone.

    For a gate of disagreement `zero` are the samples with the same answer; plus and minus differ.
    """

    plus: int = 0
    zero: int = 0
    minus: int = 0

    @classmethod
    def from_dict(cls, values: Any) -> Paired:
        """Read one gate's counts. Raises LookUnusable."""
        return cls(*_whole(values, "plus", "zero", "minus"))


@dataclass(frozen=True)
class Arm:
    """
    One arm's requests: how many, how many failed, and how many were below each latency bound (ms, cumulative).

    `proportions` are the users' own counters by gate. Where users keep to their arm, `failed_users` are those who
    failed for the first time, the second, the third and so on (`USER_LEVELS`), `users` those who asked and had not
    failed before, `slow_users` those who waited too long, as `failed_users`, by each of the look's `slow_ms`; None
    where nobody counts them.
    """

    requests: int = 0
    errors: int = 0
    latency_buckets: Mapping[str, int] = field(default_factory=dict)
    proportions: Mapping[str, Proportion] = field(default_factory=dict)
    users: int | None = None
    failed_users: tuple[int, ...] | None = None
    slow_users: tuple[tuple[int, ...], ...] | None = None

    @property
    def timed(self) -> int:
        """How many requests have a latency, or were given up."""
        return self.latency_buckets.get(INFINITE, 0)

    @classmethod
    def from_dict(cls, values: Any) -> Arm:
        """Read an arm of a look. Raises LookUnusable."""
        try:
            buckets = {str(bound): int(count) for bound, count in values["latency_buckets"].items()}
            proportions = {
                str(name): Proportion.from_dict(own) for name, own in (values.get("proportions") or {}).items()
            }
            users = None if values.get("users") is None else int(values["users"])
            failed, slow = _by_level(values.get("failed_users")), _by_bound(values.get("slow_users"))
            arm = cls(int(values["requests"]), int(values["errors"]), buckets, proportions, users, failed, slow)
            ordered = [arm.latency_buckets[bound] for bound in sorted(buckets, key=float)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LookUnusable(f"{type(error).__name__}: {error} in {values!r}") from None
        if not 0 <= arm.errors <= arm.requests:
            raise LookUnusable(f"{arm.errors} errors of {arm.requests} requests")
        untold, first = failed is None and users is not None, failed[0] if failed else 0
        if untold or any(count < 0 for count in failed or ()) or (users is not None and first > users):
            raise LookUnusable(f"{values.get('failed_users')} failed users of {users}")
        if any(count < 0 for levels in slow or () for count in levels):
            raise LookUnusable(f"{values.get('slow_users')} slow users")
        if ordered != sorted(ordered) or (ordered and (ordered[0] < 0 or INFINITE not in buckets)):
            raise LookUnusable(f"latency_buckets {buckets} are not cumulative up to {INFINITE!r}")
        return arm


@dataclass(frozen=True)
class Stratum:
    """What one router counted of both arms: compared by itself, since routers may differ in their clients."""

    canary: Arm
    stable: Arm


@dataclass(frozen=True)
class Look:
    """
    One reading of a stage, `t` seconds after the release began: counts since the look before.

    `note` says why a look is empty when it is not for want of traffic. Stable's counts by replica, where they are
    known, tell how its bad requests clump. `control` is the old fleet while it answers mirrored requests alone, at
    100 %. `strata` are the arms router by router, where there are several. `slow_ms` are the bounds that the
    arms' `slow_users` are told by. `failed_by_window` are those who failed in windows of Unix time, in each of which
    all begin anew; `slow_by_window` those who waited too long, by bound.
    """

    t: float
    stage: int
    canary: Arm = Arm()
    stable: Arm = Arm()
    note: str = ""
    stable_by_replica: tuple[Arm, ...] = ()
    control: Arm = Arm()
    paired: Mapping[str, Paired] = field(default_factory=dict)
    strata: tuple[Stratum, ...] = ()
    slow_ms: tuple[SlowBound, ...] = ()
    failed_by_window: tuple[Window, ...] = ()
    slow_by_window: tuple[tuple[Window, ...], ...] = ()

    @property
    def compared(self) -> tuple[Stratum, ...]:
        """What is compared with what: the strata, else both arms whole."""
        return self.strata or (Stratum(self.canary, self.stable),)

    def to_dict(self) -> dict[str, Any]:
        """Return the look as one JSON line holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Look:
        """Read what `to_dict` wrote, or a line with no more than t, stage and the arms. Raises LookUnusable."""
        try:
            t, stage = float(values["t"]), int(values["stage"])
        except (KeyError, TypeError, ValueError) as error:
            raise LookUnusable(f"{type(error).__name__}: {error}") from None
        if not math.isfinite(t):
            raise LookUnusable(f"t is {t}")
        canary, stable = _arms(values)
        control = Arm.from_dict(values.get("control") or _NOTHING)
        by_replica = tuple(Arm.from_dict(replica) for replica in _listed(values, "stable_by_replica"))
        strata = tuple(Stratum(*_arms(stratum)) for stratum in _listed(values, "strata"))
        paired = values.get("paired") or {}
        if not isinstance(paired, Mapping):
            raise LookUnusable(f"paired is a {type(paired).__name__}")
        pairs = {str(name): Paired.from_dict(own) for name, own in paired.items()}
        slow_ms = _bounds_of(values.get("slow_ms") or (), canary, stable)
        note, failed = str(values.get("note", "")), _windows_of(_listed(values, "failed_by_window"))
        slow = tuple(map(_windows_of, _listed(values, "slow_by_window")))
        if slow and len(slow) != len(slow_ms):
            raise LookUnusable(f"{len(slow)} bounds in slow_by_window, slow_ms is {values.get('slow_ms')!r}")
        return cls(t, stage, canary, stable, note, by_replica, control, pairs, strata, slow_ms, failed, slow)


def _windows_of(windows: Any) -> tuple[Window, ...]:
    """Return who was affected by window. Raises LookUnusable."""
    try:
        found = tuple(
            Window(int(minutes), int(number), tuple(map(int, own)), tuple(map(int, other)))
            for minutes, number, own, other in windows
        )
    except (TypeError, ValueError) as error:
        raise LookUnusable(f"{type(error).__name__}: {error} in {windows!r}") from None
    if any(count < 0 for window in found for count in (*window.canary, *window.stable)):
        raise LookUnusable(f"{windows!r} affected users by window")
    return found


def _bounds_of(slow_ms: Any, *arms: Arm) -> tuple[SlowBound, ...]:
    """Return the bounds of slow users, one for each that the arms tell of. Raises LookUnusable."""
    try:
        bounds = tuple(SlowBound(float(canary_ms), float(stable_ms)) for canary_ms, stable_ms in slow_ms)
    except (TypeError, ValueError):
        raise LookUnusable(f"slow_ms is {slow_ms!r}") from None
    told = [len(arm.slow_users) for arm in arms if arm.slow_users is not None]
    if any(count != len(bounds) for count in told):
        raise LookUnusable(f"{told} bounds of slow users, slow_ms is {slow_ms!r}")
    return bounds


def _by_level(users: Any) -> tuple[int, ...] | None:
    """Return users by level; one number is of those who were affected for the first time."""
    if users is None:
        return None
    return tuple(map(int, users)) if isinstance(users, list | tuple) else (int(users),)


def _by_bound(slow: Any) -> tuple[tuple[int, ...], ...] | None:
    """Return users by bound and level."""
    return None if slow is None else tuple(tuple(map(int, levels)) for levels in slow)


def _arms(values: Any) -> tuple[Arm, Arm]:
    if not isinstance(values, Mapping):
        raise LookUnusable(f"two arms are a {type(values).__name__}")
    return Arm.from_dict(values.get("canary") or _NOTHING), Arm.from_dict(values.get("stable") or _NOTHING)


def _listed(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key) or ()
    if not isinstance(found, list | tuple):
        raise LookUnusable(f"{key} is a {type(found).__name__}")
    return found


def _whole(values: Any, *keys: str) -> tuple[int, ...]:
    """Return counts by name, each a whole number that is not negative. Raises LookUnusable."""
    try:
        counts = tuple(int(values[key]) for key in keys)
    except (KeyError, TypeError, ValueError) as error:
        raise LookUnusable(f"{type(error).__name__}: {error} in {values!r}") from None
    if min(counts) < 0:
        raise LookUnusable(f"a count below zero in {values!r}")
    return counts


def difference(
    before: Mapping[str, ArmCounters],
    after: Mapping[str, ArmCounters],
    stable: str | None,
    canary: str | None,
    t: float,
    stage: int,
    *,
    shadow: bool = False,
) -> Look:
    """
    Return the look between two readings of the counters; in the `shadow` the canary is what was mirrored to it.

    A router that started again in between makes the look empty for both arms: half of it would favour one of them.
    """
    read = {arm: (_of(before, fleet), _of(after, fleet)) for arm, fleet in (("canary", canary), ("stable", stable))}
    read["control"] = (read["stable"][0].mirrored, read["stable"][1].mirrored)
    if shadow:
        read["canary"] = (read["canary"][0].mirrored, read["canary"][1].mirrored)
    own, other, control = (_since(*read[arm]) for arm in ("canary", "stable", "control"))
    if own is None or other is None or control is None:
        return Look(t, stage, note="the router's counters started again")
    return Look(t, stage, own, other, control=control)


def _of(counters: Mapping[str, ArmCounters], fleet: str | None) -> ArmCounters:
    return counters.get(fleet or "", ArmCounters(0, 0))


def _since(before: ArmCounters, after: ArmCounters) -> Arm | None:
    """Return what was counted in between, or None when the counters are of different processes."""
    if before.generation and before.generation != after.generation:
        return None
    requests, errors = after.requests - before.requests, after.errors - before.errors
    buckets = {bound: count - before.latency_buckets.get(bound, 0) for bound, count in after.latency_buckets.items()}
    if buckets:
        # What was given up is told by other counters than what was timed, and they may lie a reading apart.
        buckets[INFINITE] = max(buckets.values())
    if min(requests, errors, *buckets.values()) < 0:
        return None
    # The router may count a request and its error on either side of a reading.
    return Arm(requests, min(errors, requests), buckets)


def difference_by_router(
    before: Mapping[str, Mapping[str, ArmCounters]], after: Mapping[str, Mapping[str, ArmCounters]], **how: Any
) -> Look:
    """
    Return the look between two readings of several routers' counters, each by fleet; `how` is that of `difference`.

    Each router is a stratum. One that began anew, or is gone, or is new, is left out of this look for both arms.
    """
    parts = [difference(before[name], counters, **how) for name, counters in after.items() if name in before]
    parts = [part for part in parts if not part.note]
    if len(parts) == 1:
        return parts[0]
    t, stage = how["t"], how["stage"]
    if not parts:
        return Look(t, stage, note="every router's counters started again")
    beside = [part.control if stage == WHOLE and part.control.requests else part.stable for part in parts]
    return Look(
        t,
        stage,
        _pooled([part.canary for part in parts]),
        _pooled([part.stable for part in parts]),
        control=_pooled([part.control for part in parts]),
        strata=tuple(Stratum(part.canary, other) for part, other in zip(parts, beside, strict=True)),
    )


def _pooled(arms: Sequence[Arm]) -> Arm:
    """Return what arms of several routers counted together."""
    buckets: Counter[str] = Counter()
    for arm in arms:
        buckets.update(arm.latency_buckets)
    return Arm(sum(arm.requests for arm in arms), sum(arm.errors for arm in arms), dict(buckets))

"""
Retention: which versions of the archive go, and why each of the others stays. Facts in, verdicts out, no I/O.

A sealed version goes when it is beyond the newest `keep` and nobody has sealed or promoted it for `keep_days`. What
serves or may have to serve again stays at any age. A version that was never sealed goes by its age alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

#: What one writes is never taken for a leftover before this, whatever the policy says.
LEFTOVER_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Policy:
    """What stays: the newest `keep` sealed versions, as many restorable ones, and whatever is younger than the days."""

    keep: int = 10
    keep_days: float = 90

    def __post_init__(self) -> None:
        """Refuse a policy that would leave nothing."""
        if self.keep < 1 or not self.keep_days >= 0:
            message = f"keep is at least 1 and keep_days at least 0, got {self.keep} and {self.keep_days:g}"
            raise ValueError(message)


@dataclass(frozen=True)
class Found:
    """What the archive holds of one version. `sealed_at` is None for one that was never sealed."""

    version: int
    size_bytes: int
    changed_at: datetime
    """Of its newest object."""
    sealed_at: datetime | None = None
    condemned: bool = False
    """It was decided before that it goes, and what did it was killed."""
    unreadable: str = ""
    """Why its manifest cannot be read."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one version."""

    version: int
    goes: bool
    why: str
    size_bytes: int
    sealed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return dict(self.__dict__)


def judge(
    found: Iterable[Found],
    held: Mapping[int, str],
    promoted: Sequence[int],
    promoted_at: Mapping[int, datetime],
    policy: Policy,
    now: datetime,
) -> list[Verdict]:
    """
    Judge every version, the newest first.

    `held` says of a version why it stays at any age; `promoted` are those that a rollback may go back to, the newest
    promotion first; `promoted_at` says when each was promoted last.
    """
    versions = sorted(found, key=lambda each: each.version, reverse=True)
    sealed = [each.version for each in versions if each.sealed_at is not None and not each.condemned]
    newest = set(sealed[: policy.keep])
    targets = [version for version in promoted if version in set(sealed)][: policy.keep]
    verdicts = []
    for each in versions:
        why = held.get(each.version) or _why_it_stays(each, newest, targets, promoted_at, policy, now)
        goes = why is None
        verdicts.append(
            Verdict(each.version, goes, why or _why_it_goes(each, policy), each.size_bytes, each.sealed_at is not None)
        )
    return verdicts


def _why_it_stays(
    each: Found,
    newest: set[int],
    targets: Sequence[int],
    promoted_at: Mapping[int, datetime],
    policy: Policy,
    now: datetime,
) -> str | None:
    if each.condemned:
        return None
    if each.unreadable:
        return f"its manifest cannot be read, for a person to look at: {each.unreadable}"
    if each.sealed_at is None:
        least = max(timedelta(days=policy.keep_days), LEFTOVER_AFTER)
        return (
            None if now - each.changed_at > least else f"never sealed, and last written {_days(now, each.changed_at)}"
        )
    if each.version in newest:
        return f"of the newest {policy.keep} sealed versions"
    if each.version in targets:
        return f"of the newest {policy.keep} promoted versions, which a rollback may go back to"
    used_at = max(each.sealed_at, promoted_at.get(each.version, each.sealed_at))
    if now - used_at <= timedelta(days=policy.keep_days):
        return f"{'sealed' if used_at == each.sealed_at else 'promoted'} {_days(now, used_at)}"
    return None


def _why_it_goes(each: Found, policy: Policy) -> str:
    if each.condemned:
        return "its pruning began before and did not end"
    if each.sealed_at is None:
        return f"never sealed, and last written on {each.changed_at:%Y-%m-%d}"
    return (
        f"sealed on {each.sealed_at:%Y-%m-%d}: beyond the newest {policy.keep}, "
        f"and not sealed or promoted for {policy.keep_days:g} days"
    )


def _days(now: datetime, then: datetime) -> str:
    return f"{max(0.0, (now - then) / timedelta(days=1)):.1f} days ago"

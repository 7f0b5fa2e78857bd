"""
The proof that the canary is worse by less than a margin, which may be read at every look.

For each look and each excess `delta` the null is "the canary's share of bad requests is at least stable's + delta", be
stable's what it may in that look. The e-variable is the likelihood ratio of expected shares, foreseen from earlier
looks, to the null's nearest point (least Kullback-Leibler divergence, weighed by requests), which has a mean of at most
1 at every point of a convex null: Turner, Ly, Gruenwald 2021 (arXiv 2106.02693), section 2; by the conditions of the
minimum and the means' inequality for counts. Both arms share one alpha, where two separate bounds halve it, and an
incident that strikes both arms cancels in each look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Count = tuple[float, float]

SMALLER = (0.1, 0.25, 0.5, 0.75, 1.0, 2.0)
"""The excesses that are tested, as multiples of the margin; the margin's own is 1."""

_EXPECTED = (0.5, 50.0)
_BORROWED = 300.0
_MOST_REMEMBERED = 2000.0
_STEPS = 40


@dataclass
class Proof:
    """
    Evidence, as logs by tested excess, that the canary's excess is smaller.

    `limit` stands for stable's share where there is no stable. `before` are stable's requests of earlier stages, which
    only help to foresee.
    """

    margin: float
    limit: float | None = None
    before: Count = (0, 0)
    logs: list[float] = field(default_factory=lambda: [0.0] * len(SMALLER))
    canary: Count = (0.0, 0.0)
    stable: Count = (0.0, 0.0)

    def take(self, canary: Count, stable: Count, phi: float = 1.0) -> None:
        """Add one look, as (requests, bad ones); bad ones in clumps of `phi` count for that much less."""
        if not canary[0] or (self.limit is None and not stable[0]):
            return
        own, other = self._foreseen()
        for place, multiple in enumerate(SMALLER):
            excess = self.margin * multiple
            if self.limit is None:
                ratio = two_arm_ratio(canary, stable, own, other, excess)
            else:
                ratio = one_arm_ratio(canary, own, self.limit + excess)
            self.logs[place] += ratio / phi
        self.canary = (self.canary[0] + canary[0], self.canary[1] + canary[1])
        self.stable = (self.stable[0] + stable[0], self.stable[1] + stable[1])

    def _foreseen(self) -> tuple[float, float]:
        """Return the expected shares: stable's own, and the canary's drawn towards it while little of it is known."""
        bad, n = _EXPECTED
        kept = min(1.0, _MOST_REMEMBERED / self.before[0]) if self.before[0] else 0.0
        other = (self.stable[1] + self.before[1] * kept + bad) / (self.stable[0] + self.before[0] * kept + n)
        if self.limit is not None:
            return (self.canary[1] + bad) / (self.canary[0] + n), other
        return (self.canary[1] + _BORROWED * other) / (self.canary[0] + _BORROWED), other

    @property
    def log_evidence(self) -> float:
        """The log of the e-value that the canary's excess is below the margin."""
        return self.logs[SMALLER.index(1.0)]

    def excess(self, alpha: float) -> float | None:
        """
        Return the least tested excess that is refuted at alpha, or None.

        The nulls are nested, so all excesses that are refuted lie above one bound: no alpha is split between them.
        """
        refuted = [m for m, log in zip(SMALLER, self.logs, strict=True) if log >= -math.log(alpha)]
        return self.margin * min(refuted) if refuted else None


def two_arm_ratio(canary: Count, stable: Count, own: float, other: float, excess: float) -> float:
    """Return the log e-variable of a look against "the canary's share is at least stable's + excess"."""
    if own >= other + excess or excess >= 1:
        return 0.0
    nearest = _nearest(canary[0], stable[0], own, other, excess)
    return _log_ratio(canary, own, nearest + excess) + _log_ratio(stable, other, nearest)


def one_arm_ratio(arm: Count, expected: float, limit: float) -> float:
    """Return the log e-variable of a look against "the share is at least limit"."""
    return 0.0 if expected >= limit or limit >= 1 else _log_ratio(arm, expected, limit)


def _log_ratio(arm: Count, expected: float, null: float) -> float:
    n, bad = arm
    return (n - bad) * math.log((1 - expected) / (1 - null)) + (bad * math.log(expected / null) if bad else 0.0)


def _nearest(n: float, stable_n: float, own: float, other: float, excess: float) -> float:
    """
    Return stable's share at the null's point nearest to the expected shares.

    The divergence is convex along the null's edge; its slope's zero is found by Newton's steps, kept in a bracket.
    """
    low, high = max(0.0, own - excess), min(other, 1 - excess)
    # Each arm gives way by its variance: the minimum, were the divergence quadratic.
    given, stable_given = (own + excess) * (1 - own - excess) / n, other * (1 - other) / stable_n
    share = other - (other + excess - own) * stable_given / (given + stable_given) if given > 0 else other
    share = share if low < share < high else (low + high) / 2
    for _ in range(_STEPS):
        shifted = share + excess
        spread, stable_spread = shifted * (1 - shifted), share * (1 - share)
        miss, stable_miss = (shifted - own) / spread, (share - other) / stable_spread
        slope = n * miss + stable_n * stable_miss
        if slope > 0:
            high = share
        else:
            low = share
        bend = (
            n * (1 - miss * (1 - 2 * shifted)) / spread + stable_n * (1 - stable_miss * (1 - 2 * share)) / stable_spread
        )
        stepped = share - slope / bend
        if not low < stepped < high:
            stepped = (low + high) / 2
        if abs(stepped - share) <= 1e-9 * share:
            break
        share = stepped
    return share

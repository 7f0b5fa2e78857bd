"""
How far bad events come in clumps: one crash that fails many requests is one event, not many.

The dispersion phi is the variance of a split of bad events over that of independent ones: 1 when they are independent,
else the mean size of the clump that a bad event lies in. It is read on stable alone, from how its bad events fall on
its replicas within a look, or, where a look does not tell replicas apart, on two looks in succession; slow changes of
load cancel in both. A look is judged by the dispersion of the looks before it.

Limits: on looks in succession a sudden incident's edge passes for a clump until the incident's own events outweigh it,
so for some looks less is detected; clumps that strike all replicas at once are not seen within a look; and an event
that lasts longer than a look counts once in each look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Count = tuple[int, int]

# Tuned by simulation (sandbox.show_gates): the least caution that holds alpha for clumps of 3 to 10 from a cold start.
_PRIOR_PHI = 3.0
_PRIOR_EVENTS = 1.0
_GROWTH = 0.9
_DOUBT = 20.0
_BY_CHANCE = 1.5
_KNOWN = 40


@dataclass
class Dispersion:
    """Splits seen so far: how many could show clumps, and sums weighted by their bad events."""

    splits: int = 0
    weighed: float = 0.0
    squares: float = 0.0
    last: Count | None = None

    def take(self, whole: Count, replicas: Sequence[Count] = ()) -> None:
        """Add a look of stable, as (requests, bad ones), in all and by replica where that is known."""
        busy = [part for part in replicas if part[0]]
        if len(busy) > 1:
            self._split(busy)
            self.last = None
        elif whole[0]:
            if self.last:
                self._split([self.last, whole])
            self.last = whole

    def _split(self, parts: Sequence[Count]) -> None:
        """
        Add Pearson's chi-square of the parts' bad requests given their sum, weighed by that sum.

        Its mean is len(parts) - 1 for independent ones; the factor below is the hypergeometric variance's.
        """
        n, bad = sum(part[0] for part in parts), sum(part[1] for part in parts)
        if not 0 < bad < n:
            return
        chi_square = sum((own - bad * share / n) ** 2 / (bad * share / n) for share, own in parts) * (n - 1) / (n - bad)
        self.splits += len(parts) - 1
        self.weighed += bad * (len(parts) - 1)
        self.squares += bad * chi_square

    @property
    def phi(self) -> float:
        """The estimate; 1 where it is less, or no more than chance makes of independent events."""
        if not self.weighed:
            return 1.0
        seen = self.squares / self.weighed
        return seen if seen > 1 + _BY_CHANCE * math.sqrt(2 / self.splits) else 1.0

    def for_look(self, bad: int) -> float:
        """
        Return the phi to judge a look with `bad` bad events by, both arms'.

        While little is known of stable's clumps some are assumed, and a look counts for few events: for a single one
        at first, which is right for clumps of any size within a look, and for more with each split that was seen, until
        phi is known well enough to be taken at its word.
        """
        assumed = (self.squares + _PRIOR_PHI * _PRIOR_EVENTS) / (self.weighed + _PRIOR_EVENTS)
        if not self.splits:
            return float(max(1, bad))
        if self.splits >= _KNOWN and self.phi == 1:
            return 1.0
        fewer = bad / float((1 + self.splits) ** _GROWTH)
        unsure = assumed * (1 + _DOUBT / self.splits**1.5)
        return float(max(1.0, min(assumed, bad), min(fewer, unsure)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a look that waits for the next belongs to its stage and is left out."""
        return {"splits": self.splits, "weighed": self.weighed, "squares": self.squares}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dispersion:
        """Read what `to_dict` wrote."""
        return cls(int(values["splits"]), float(values["weighed"]), float(values["squares"]))

"""
The evidence of one comparison over a whole release, as capital that is bet against the canary.

It starts at 1. Bets on each effect of `sequential.EFFECTS` multiply their part by that effect's likelihood ratio, which
has a mean of at most 1 while the canary is no worse than allowed; the rest is kept in cash. Moving capital between the
parts by a rule that knows only earlier looks keeps the sum an e-process (Ville's inequality holds for it), so alpha is
spent once for all stages. Cash is what a canary that turns bad late, or under more load, is caught with: bets alone
would have lost nearly all by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PRIOR = (0.12, 0.12, 0.19, 0.21, 0.21, 0.15)
"""The share of the bets that each effect starts with."""

CASH = 0.03
"""The share of the capital that a release keeps back at first."""

_INVESTED_A_LOOK = 0.01
_INVESTED_A_STAGE = 0.5
_MOST_LOG = 700.0
_LAID_OUT = tuple((1 - CASH) * share for share in PRIOR)


@dataclass
class Wealth:
    """The log of the capital and of the most that it ever was; the shares of it in cash and in the bets by effect."""

    total: float = 0.0
    peak: float = 0.0
    cash: float = CASH
    bets: tuple[float, ...] = _LAID_OUT

    def take(self, ratios: Sequence[float], most: float) -> None:
        """
        Multiply the bets by a look's likelihood ratios (logs, by effect), then bet a little of the cash.

        `most` is the log of the factor that one look may be worth; what it is worth beyond that is given away, which
        an e-process may. Such a look, which may be one crash, does not tell effects apart: its gain is bet anew.
        """
        if any(ratios):
            grown = [bet * math.exp(min(ratio, _MOST_LOG)) for bet, ratio in zip(self.bets, ratios, strict=True)]
            factor = self.cash + math.fsum(grown)
            if math.log(factor) > most:
                self.total, self.cash, self.bets = self.total + most, CASH, _LAID_OUT
            else:
                self.total += math.log(factor)
                self.cash, self.bets = self.cash / factor, tuple(bet / factor for bet in grown)
            self.peak = max(self.peak, self.total)
        self._invest(_INVESTED_A_LOOK)

    def lay_out(self, prior: Sequence[float]) -> None:
        """Share the bets by another prior than the usual one, before anything was bet."""
        self.bets = tuple((1 - CASH) * share for share in prior)

    def begin_stage(self) -> None:
        """Bet part of the cash on what the new weight may show."""
        self._invest(_INVESTED_A_STAGE)

    def _invest(self, share: float) -> None:
        moved = self.cash * share
        self.cash -= moved
        self.bets = tuple(bet + moved * prior for bet, prior in zip(self.bets, PRIOR, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"total": self.total, "peak": self.peak, "cash": self.cash, "bets": list(self.bets)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Wealth:
        """Read what `to_dict` wrote."""
        total, peak, cash = (float(values[key]) for key in ("total", "peak", "cash"))
        return cls(total, peak, cash, tuple(map(float, values["bets"])))

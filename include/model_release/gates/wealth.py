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

from model_release.gates.sequential import EFFECTS, START, State, log_sum

PRIOR = (0.08, 0.10, 0.20, 0.22, 0.23, 0.17)
"""The share of the bets that each effect starts with."""

CASH = 0.03
"""The share of the capital that a release keeps back at first."""

_INVESTED_A_LOOK = 0.01
_INVESTED_A_STAGE = 0.5
_LOG_PRIOR = tuple(math.log(share / sum(PRIOR)) for share in PRIOR)


@dataclass
class Wealth:
    """Logs of the cash, of the bets by effect, and of the most that both ever were together."""

    cash: float = math.log(CASH)
    bets: State = tuple(math.log1p(-CASH) + log_share for log_share in _LOG_PRIOR)
    peak: float = 0.0

    @property
    def total(self) -> float:
        """The log of the e-value."""
        return log_sum((self.cash, *self.bets))

    def take(self, ratios: Sequence[float], most: float) -> None:
        """
        Multiply the bets by a look's likelihood ratios (logs, by effect), then bet a little of the cash.

        `most` is the log of the factor that one look may be worth; what it is worth beyond that is given away, which
        an e-process may. Such a look, which may be one crash, does not tell effects apart: its gain is bet anew.
        """
        before = self.total
        self.bets = tuple(bet + ratio for bet, ratio in zip(self.bets, ratios, strict=True))
        if self.total > before + most:
            capped = Wealth.of(before + most, self.peak)
            self.cash, self.bets = capped.cash, capped.bets
        self.peak = max(self.peak, self.total)
        self._invest(_INVESTED_A_LOOK)

    def begin_stage(self) -> None:
        """Bet part of the cash on what the new weight may show."""
        self._invest(_INVESTED_A_STAGE)

    def _invest(self, share: float) -> None:
        moved = self.cash + math.log(share)
        self.cash += math.log1p(-share)
        self.bets = tuple(log_sum((bet, moved + prior)) for bet, prior in zip(self.bets, _LOG_PRIOR, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"cash": self.cash, "bets": list(self.bets), "peak": self.peak}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Wealth:
        """Read what `to_dict` wrote."""
        return cls(float(values["cash"]), tuple(map(float, values["bets"])), float(values["peak"]))

    @classmethod
    def of(cls, total: float, peak: float) -> Wealth:
        """Return a capital (log) laid out as at the start: what other bets won or lost, bet anew."""
        fresh = cls()
        return cls(fresh.cash + total, tuple(bet + total for bet in fresh.bets), peak)


assert len(PRIOR) == len(EFFECTS) == len(START)  # noqa: S101 - one share for each effect

"""
Samples that both versions answer: how many more the canary gets wrong, and how many it answers otherwise.

Each sample is an independent draw and is asked once in a release, so its counts are all that matters: no clumps, no
strata, and the evidence of all stages is one. Both tests bet on each sample: for a difference D of right answers
(1, 0 or -1) a capital is multiplied by 1 + lambda (D + d), which has a mean of at most 1 while the mean of D is at most
-d. The mean over several lambda is an e-process (Waudby-Smith, Ramdas 2020, arXiv 2010.09686).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.looks import Paired
from model_release.gates.noninferiority import SMALLER

_BETS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.98)
"""Parts of the greatest lambda that no sample can bankrupt."""

_FEWER = (0.02, 0.1, 0.25, 0.5, 0.75)
"""The shares that a proof bets on, as parts of the refuted one."""


@dataclass
class Answers(ABC):
    """The samples of a release so far, and what they say."""

    margin: float
    limit: float | None = None
    key: str = "answers"
    counted: Paired = field(default_factory=Paired)
    phi_used: float = 1.0

    def take(self, paired: Paired) -> None:
        """Add a look's samples."""
        own = self.counted
        self.counted = Paired(own.plus + paired.plus, own.zero + paired.zero, own.minus + paired.minus)

    @property
    def n(self) -> int:
        """How many samples both versions answered."""
        return self.counted.plus + self.counted.zero + self.counted.minus

    @property
    def phi(self) -> float:
        """Samples are drawn one by one."""
        return 1.0

    @property
    @abstractmethod
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""

    @abstractmethod
    def log_proof(self, multiple: float = 1.0) -> float:
        """Return the log of the e-value that the canary is worse by less than `multiple` margins."""

    @abstractmethod
    def sentence(self) -> str:
        """Say the numbers."""

    @abstractmethod
    def arms(self, alpha: float) -> dict[str, Any]:
        """Return counts, estimate and interval."""

    def excess(self, alpha: float) -> float | None:
        """Return the least tested excess that is refuted at alpha, or None; the nulls are nested."""
        refuted = [multiple for multiple in SMALLER if self.log_proof(multiple) >= -math.log(alpha)]
        return self.margin * min(refuted) if refuted else None

    def proved(self, alpha: float) -> str:
        """Say how much worse the canary may still be."""
        excess = self.excess(alpha)
        over = self.limit or 0.0
        if excess is None or excess > self.margin:
            evidence = math.exp(min(self.log_proof(), 700.0))
            return f"not yet proved, evidence {evidence:.3g} of {1 / alpha:g} for at most {over + self.margin:.2%}"
        return f"at most {over + excess:.2%}, {over + self.margin:.2%} allowed"

    def carried(self) -> dict[str, Any]:
        """Return what later stages need, as JSON values."""
        return {"key": self.key, "limit": self.limit, "paired": self.counted.__dict__.copy()}

    def carry(self, gate: Mapping[str, Any]) -> None:
        """Go on from an earlier stage's gate: what was asked is not asked again."""
        same = next((each for each in gate["comparisons"] if each["key"] == self.key), None)
        if same is not None:
            self.counted = Paired.from_dict(same["paired"])


@dataclass
class Drop(Answers):
    """How much less often the canary is right than stable; a drop of `allowed` is no reason to go back."""

    allowed: float = 0.0

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return _bet(self.counted.minus, self.counted.zero, self.counted.plus, -self.allowed)

    def log_proof(self, multiple: float = 1.0) -> float:
        """Return the log of the e-value that the drop is below `multiple` margins."""
        return _bet(self.counted.plus, self.counted.zero, self.counted.minus, self.margin * multiple)

    def sentence(self) -> str:
        """Say both numbers."""
        plus, minus = self.counted.plus, self.counted.minus
        return f"of {self.n} samples the canary alone is right about {plus}, stable alone about {minus}"

    def arms(self, alpha: float) -> dict[str, Any]:
        """Return the counts, and the difference of right answers with an interval that holds at every look."""
        if not self.n:
            return {"paired": self.counted.__dict__, "n": 0, "difference": {"estimate": None, "interval": None}}
        plus, zero, minus = self.counted.plus, self.counted.zero, self.counted.minus
        low = -_least(lambda drop: _bet(plus, zero, minus, drop), alpha / 2, start=(minus - plus) / self.n)
        high = _least(lambda rise: _bet(minus, zero, plus, rise), alpha / 2, start=(plus - minus) / self.n)
        difference = {"estimate": (plus - minus) / self.n, "interval": [low, high]}
        return {"paired": self.counted.__dict__.copy(), "n": self.n, "difference": difference}


@dataclass
class Disagreement(Answers):
    """The share of samples that the canary answers otherwise, against `limit`."""

    @property
    def different(self) -> int:
        """How many were answered otherwise."""
        return self.counted.plus + self.counted.minus

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        ratios = sequential.one_arm(sequential.START, (self.n, self.different), self.limit or 0.0)
        return sequential.log_mean(ratios)

    def log_proof(self, multiple: float = 1.0) -> float:
        """Return the log of the e-value that the share is below the limit and `multiple` margins."""
        null = (self.limit or 0.0) + self.margin * multiple
        if null >= 1:
            return 0.0
        same, different = self.n - self.different, self.different
        shares = [null * part for part in _FEWER]
        ratios = [different * math.log(q / null) + same * math.log((1 - q) / (1 - null)) for q in shares]
        return sequential.log_mean(ratios)

    def sentence(self) -> str:
        """Say the numbers."""
        share = f" ({self.different / self.n:.2%})" if self.n else ""
        return f"the canary answers {self.different} of {self.n} samples{share} otherwise, limit {self.limit:.2%}"

    def arms(self, alpha: float) -> dict[str, Any]:
        """Return the counts, and the share with an interval that holds at every look."""
        interval = None
        if self.n:
            bounds = (sequential.lower_bound, sequential.upper_bound)
            interval = [bound(self.n, self.different, alpha / 2) for bound in bounds]
        estimate = self.different / self.n if self.n else None
        shown = {"n": self.n, "bad": self.different, "estimate": estimate, "interval": interval}
        return {"canary": shown, "paired": self.counted.__dict__.copy(), "n": self.n}


def _bet(gains: int, zero: int, losses: int, shift: float) -> float:
    """Return the log of the mean capital of bets on D + shift being positive; D is 1, 0 and -1 so many times."""
    if shift >= 1 or not gains + zero + losses:
        return 0.0
    most = 1 / (1 - shift)
    logs = []
    for part in _BETS:
        stake = part * most
        logs.append(
            gains * math.log1p(stake * (1 + shift))
            + zero * math.log1p(stake * shift)
            + losses * math.log1p(stake * (shift - 1))
        )
    return sequential.log_mean(logs)


def _least(log_evidence: Callable[[float], float], alpha: float, start: float) -> float:
    """Return the least shift from `start` on that is refuted at alpha, 1 where none is."""
    low, high = start, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if log_evidence(middle) >= -math.log(alpha):
            high = middle
        else:
            low = middle
    return high

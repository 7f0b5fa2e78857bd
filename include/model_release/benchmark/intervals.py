"""
Medians of few repeats, with the interval that they allow.

Up to four repeats it is Student's t on logarithms, since times and rates err by factors. From five on it is that of
order statistics, which holds whatever the noise is like, and from eight on lets one outlier be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Of each side: a bound is wrong once in twenty times.
CONFIDENCE = 0.95
#: Student's t at CONFIDENCE for 1, 2, ... degrees of freedom; beyond them the last one, which is a little wide.
_T = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
_FEW = 4


@dataclass(frozen=True)
class Interval:
    """A median, and the bounds that the repeats allow; without a second repeat there are none."""

    median: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return JSON values."""
        return {"median": _rounded(self.median), "low": _rounded(self.low), "high": _rounded(self.high)}

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(values: Sequence[float]) -> Interval:
    """Return the median of positive values with its bounds."""
    median = statistics.median(values)
    if len(values) < 2 or min(values) <= 0:
        return Interval(median)
    if len(values) > _FEW:
        ordered = sorted(values)
        outside = _outside(len(values))
        return Interval(median, ordered[outside], ordered[-1 - outside])
    logs = [math.log(value) for value in values]
    return _around(median, statistics.fmean(logs), statistics.variance(logs) / len(logs), len(logs) - 1)


def ratio(one: Sequence[float], other: Sequence[float]) -> Interval:
    """Return the median of one over that of the other with its bounds, as two independent groups of repeats."""
    median = statistics.median(one) / statistics.median(other)
    if min(len(one), len(other)) < 2 or min(*one, *other) <= 0:
        return Interval(median)
    groups = [[math.log(value) for value in values] for values in (one, other)]
    means = [statistics.fmean(group) for group in groups]
    errors = [statistics.variance(group) / len(group) for group in groups]
    return _around(median, means[0] - means[1], sum(errors), _freedom(errors, [len(group) - 1 for group in groups]))


def _outside(repeats: int) -> int:
    """Return how many of the lowest values lie outside of the bound: it is above the median once in twenty times."""
    share, below = 0.0, 0
    while True:
        share += math.comb(repeats, below) / 2**repeats
        if share > 1 - CONFIDENCE:
            return below - 1
        below += 1


def _freedom(errors: Sequence[float], each: Sequence[int]) -> int:
    """Return Welch's degrees of freedom, rounded down."""
    below = sum(error**2 / freedom for error, freedom in zip(errors, each, strict=True))
    return sum(each) if below == 0 else max(1, int(sum(errors) ** 2 / below))


def _around(median: float, mean_log: float, variance: float, freedom: int) -> Interval:
    """Return bounds that hold the mean of the logarithms; the median of few values may lie a little beside it."""
    off = _T[min(freedom, len(_T)) - 1] * math.sqrt(variance)
    return Interval(median, min(median, math.exp(mean_log - off)), max(median, math.exp(mean_log + off)))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")

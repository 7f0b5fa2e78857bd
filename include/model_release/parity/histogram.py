"""Counts of magnitudes on a logarithmic scale: quantiles and pictures of any number of values in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: 64 bins a decade: the upper end of a bin is 3.7 % above its lower one, and that is the error of a quantile.
_BINS_A_DECADE = 64
_LOWEST, _HIGHEST = -45, 40
_SHOWN_A_DECADE = 4


class LogCounts:
    """How many values of 0 and more fell into each bin of a logarithmic scale, from 1e-45 to 1e40."""

    def __init__(self) -> None:
        self._bins = np.zeros((_HIGHEST - _LOWEST) * _BINS_A_DECADE, np.int64)
        self.zeros = 0
        self.total = 0
        self.max = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count finite values of 0 and more."""
        if not values.size:
            return
        positive = values[values > 0]
        self.total += int(values.size)
        self.zeros += int(values.size - positive.size)
        if positive.size:
            self.max = max(self.max, float(positive.max()))
            places = np.floor((np.log10(positive) - _LOWEST) * _BINS_A_DECADE).astype(np.int64)
            self._bins += np.bincount(np.clip(places, 0, len(self._bins) - 1), minlength=len(self._bins))

    def quantile(self, share: float) -> float:
        """Return a bound that `share` of the values do not pass, at most 3.7 % above the smallest such bound."""
        wanted = share * self.total
        if wanted <= self.zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins) + self.zeros, wanted))
        return min(self.max, float(10.0 ** (_LOWEST + (place + 1) / _BINS_A_DECADE)))

    def shown(self) -> tuple[list[float], list[int]]:
        """Return edges and counts of the bins in use, a quarter of a decade wide; one more edge than counts."""
        counts = self._bins.reshape(-1, _BINS_A_DECADE // _SHOWN_A_DECADE).sum(axis=1)
        used = np.flatnonzero(counts)
        if not used.size:
            return [], []
        first, last = int(used[0]), int(used[-1])
        edges = [float(10.0 ** (_LOWEST + place / _SHOWN_A_DECADE)) for place in range(first, last + 2)]
        return edges, [int(count) for count in counts[first : last + 1]]

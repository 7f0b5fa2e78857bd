"""Simulated latencies in the few buckets that a gate reads, and the reference's rule on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sandbox.show_gates.rivals import Seconds, first, log_evidence
from sandbox.show_gates.traffic import LOOK_S, LOOKS, Cell, Counts, coarse

MEDIAN_MS, SPREAD = 40.0, 1.0
_NORMAL = NormalDist()
_STEPS_MS = 1.1 ** np.arange(105)


def _quantile_ms(share: float) -> float:
    return MEDIAN_MS * math.exp(SPREAD * _NORMAL.inv_cdf(share))


_PLACES = [int(np.argmin(np.abs(np.log(_STEPS_MS / _quantile_ms(share))))) for share in (0.5, 0.95, 0.99)]
BOUNDS_MS = [float(_STEPS_MS[place]) for place in _PLACES]
ABOVE_MS = [float(_STEPS_MS[place + 1]) for place in _PLACES]
EDGES_MS = [edge for pair in zip(BOUNDS_MS, ABOVE_MS, strict=True) for edge in pair]


@dataclass(frozen=True)
class Slowdown:
    """All latencies of the canary times `factor`, or only those above the p90, so that its p99 is."""

    name: str
    factor: float
    tail: bool = False
    harmless: bool = False

    def draw(self, rng: np.random.Generator, cell: Cell, runs: int) -> tuple[Counts, Counts]:
        """Return both arms' cumulative buckets, (runs, looks, edges and infinity)."""
        shares = np.diff([0.0, *(self._below(edge) for edge in EDGES_MS), 1.0])
        usual = np.diff([0.0, *(Slowdown("", 1.0)._below(edge) for edge in EDGES_MS), 1.0])
        n = cell.rps * LOOK_S
        size = (runs, LOOKS, len(shares))
        own, stable = rng.poisson(n * cell.weight * shares, size), rng.poisson(n * (1 - cell.weight) * usual, size)
        return np.cumsum(own, axis=2), np.cumsum(stable, axis=2)

    def _below(self, edge_ms: float) -> float:
        p90_ms, p99_ms = _quantile_ms(0.9), _quantile_ms(0.99)
        if not self.tail:
            edge_ms /= self.factor
        elif edge_ms > p90_ms:
            stretch = math.log(self.factor * p99_ms / p90_ms) / math.log(p99_ms / p90_ms)
            edge_ms = p90_ms * (edge_ms / p90_ms) ** (1 / stretch)
        return _NORMAL.cdf(math.log(edge_ms / MEDIAN_MS) / SPREAD)


SLOWDOWNS = [
    Slowdown("equal", 1.0, harmless=True),
    Slowdown("all x 1.1 (at the margin)", 1.1, harmless=True),
    Slowdown("all x 1.2", 1.2),
    Slowdown("all x 1.5", 1.5),
    Slowdown("all x 2", 2.0),
    Slowdown("p99 x 1.2", 1.2, tail=True),
    Slowdown("p99 x 1.5", 1.5, tail=True),
    Slowdown("p99 x 2", 2.0, tail=True),
]


def reference(own: Counts, stable: Counts, alpha: float) -> Seconds:
    """Return when the reference rolls back: the mean over the bounds, the canary held to the next bound."""
    own, stable = (coarse(counts.swapaxes(1, 2)).swapaxes(1, 2) for counts in (own, stable))
    n, stable_n = own[..., -1], stable[..., -1]
    logs: list[npt.NDArray[np.float64]] = [
        log_evidence(n, n - own[..., 2 * k + 1], stable_n, stable_n - stable[..., 2 * k], 1.0)
        for k in range(len(BOUNDS_MS))
    ]
    stacked = np.stack(logs)
    highest = stacked.max(0)
    return first(highest + np.log(np.exp(stacked - highest).mean(0)) >= -math.log(alpha))

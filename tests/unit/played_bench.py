"""A server that is played: its clock, what each tuning serves there, and noise of a fixed seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from model_release.benchmark.meter import Run
from model_release.triton.config import Tuning

#: (requests a second, p99 in ms) of a tuning at a concurrency.
Serves = Callable[[Tuning, int], tuple[float, float]]


class PlayedBench:
    """Takes `apply_s` to bring a tuning on and the asked seconds to measure it."""

    def __init__(self, serves: Serves, *, noise: float = 0.0, apply_s: float = 2.0, seed: int = 7) -> None:
        self._serves, self._noise, self._apply_s = serves, noise, apply_s
        self._random = random.Random(seed)
        self.now_s = 0.0
        self.loaded: Tuning | None = None
        self.applied: list[Tuning] = []
        self.runs: list[tuple[Tuning, int, float]] = []
        self.least_s = 1.2

    def clock(self) -> float:
        return self.now_s

    def apply(self, tuning: Tuning) -> None:
        self.now_s += self._apply_s
        self.loaded = tuning
        self.applied.append(tuning)

    def run(self, concurrency: int, seconds: float) -> Run:
        assert self.loaded is not None
        self.now_s += seconds
        self.runs.append((self.loaded, concurrency, seconds))
        throughput, p99_ms = self._serves(self.loaded, concurrency)
        return played_run(throughput * self._factor(), p99_ms * self._factor())

    def least_run_s(self) -> float:
        return self.least_s

    def _factor(self) -> float:
        return math.exp(self._random.gauss(0, self._noise))


def played_run(throughput_per_s: float, p99_ms: float = 5.0) -> Run:
    """Return a run with these numbers."""
    return Run(throughput_per_s, p99_ms / 2, p99_ms * 0.9, p99_ms, 0.1, 0.2, {2: 10})

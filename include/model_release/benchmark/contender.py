"""A candidate while it is measured: the level that it is judged at, its runs there, and what they show of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model_release.benchmark.intervals import Interval, interval, ratio
from model_release.benchmark.meter import Run
from model_release.triton.config import Tuning

#: A first run that misses the objective by more than this is believed; repeats judge the others.
SLACK = 1.25


@dataclass
class Contender:
    """
    One tuning. It is judged at the highest concurrency at which its p99 may still meet the objective.

    `levels` are the concurrencies that are left to it, falling; the first is the one that it is judged at.
    """

    tuning: Tuning
    levels: list[int]
    runs: dict[int, list[Run]] = field(default_factory=dict)

    @property
    def level(self) -> int | None:
        """The concurrency that it is judged at; None when it missed the objective at each."""
        return self.levels[0] if self.levels else None

    @property
    def own(self) -> list[Run]:
        """The runs at that level."""
        return [] if self.level is None else self.runs.get(self.level, [])

    @property
    def throughput(self) -> Interval:
        """Requests a second at that level."""
        return interval([run.throughput_per_s for run in self.own])

    @property
    def p99_ms(self) -> Interval:
        """The 99th percentile at that level."""
        return interval([run.p99_ms for run in self.own])

    def add(self, level: int, run: Run) -> None:
        """Keep a run."""
        self.runs.setdefault(level, []).append(run)

    def descend(self) -> None:
        """Go on at the next lower concurrency."""
        self.levels = self.levels[1:]

    def may_meet(self, objective_p99_ms: float) -> bool:
        """Say whether its p99 so far leaves hope at this level."""
        return bool(self.own) and self.p99_ms.median <= objective_p99_ms * SLACK

    def meets(self, objective_p99_ms: float) -> bool:
        """Say whether its p99 meets the objective with confidence at this level."""
        high = self.p99_ms.high if self.own else None
        return high is not None and high <= objective_p99_ms

    def misses(self, objective_p99_ms: float) -> bool:
        """Say whether its p99 is shown to miss the objective at this level."""
        low = self.p99_ms.low if self.own else None
        return low is not None and low > objective_p99_ms

    def over(self, other: Contender) -> Interval:
        """Return how many times more requests a second it serves than another."""
        return ratio(*([run.throughput_per_s for run in each.own] for each in (self, other)))


def best_of(contenders: Sequence[Contender]) -> Contender:
    """Return the one with the highest throughput where it is judged."""
    return max(contenders, key=lambda contender: contender.throughput.median)

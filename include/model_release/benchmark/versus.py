"""The candidate against stable's version on the same server, by turns from the first run on, and what that shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model_release.benchmark.intervals import Interval, interval
from model_release.benchmark.meter import Run, row_of

LEAST_ROUNDS = 2
MOST_ROUNDS = 6
#: Two rounds may both meet the same pause of a busy machine: it takes another to stop a release.
LEAST_TO_STOP = 3
#: One round is enough where it leaves this much room to what is allowed.
PLENTY = 0.5


@dataclass
class Comparison:
    """
    One run of each in every round, at one concurrency, and how many times slower the candidate is.

    `slowdown` is stable's requests a second over the candidate's, `p99` the candidate's 99th percentile over stable's;
    both are of pairs of runs that followed one another.
    """

    concurrency: int
    candidate: list[Run] = field(default_factory=list)
    stable: list[Run] = field(default_factory=list)

    @property
    def slowdown(self) -> Interval:
        """How many times fewer requests a second the candidate serves."""
        return interval([old.throughput_per_s / new.throughput_per_s for new, old in self._rounds()])

    @property
    def p99(self) -> Interval:
        """How many times longer the candidate's slowest requests take."""
        return interval([new.p99_ms / old.p99_ms for new, old in self._rounds()])

    def _rounds(self) -> list[tuple[Run, Run]]:
        return list(zip(self.candidate, self.stable, strict=True))

    def is_slower(self, allowed: float) -> bool:
        """Say whether it is shown to be slower than allowed."""
        low = self.slowdown.low
        return low is not None and low > allowed and len(self.stable) >= LEAST_TO_STOP

    def is_fast_enough(self, allowed: float) -> bool:
        """Say whether it is shown to be no slower than allowed."""
        high = self.slowdown.high
        return high is not None and high <= allowed

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "concurrency": self.concurrency,
            "slowdown": self.slowdown.to_dict(),
            "p99": self.p99.to_dict(),
            "candidate": row_of(self.candidate),
            "stable": row_of(self.stable),
            "rounds": len(self.stable),
        }


def compare(
    concurrency: int,
    allowed: float,
    candidate: Callable[[], Run],
    stable: Callable[[], Run],
    in_time: Callable[[], bool],
) -> Comparison:
    """
    Run both by turns, C S, S C, C S, until the interval of the slowdown lies on one side of `allowed`; one round is
    enough where the candidate is faster by far than it has to be.

    Each call brings its version onto the server, if it is not there, and measures it. It ends without an answer when
    `in_time` says so, or after MOST_ROUNDS.
    """
    found = Comparison(concurrency)
    turn = [(found.candidate, candidate), (found.stable, stable)]
    while True:
        for runs, measure in turn:
            runs.append(measure())
        turn.reverse()  # the one that is on the server begins
        if found.slowdown.median <= allowed * PLENTY:
            return found
        if len(found.stable) < LEAST_ROUNDS:
            continue
        if found.is_slower(allowed) or found.is_fast_enough(allowed):
            return found
        if len(found.stable) >= MOST_ROUNDS or not in_time():
            return found

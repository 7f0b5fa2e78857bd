"""What is tried on bench, in which order, and for how long: the search of the spec within its budget."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from model_release.spec import ModelSpec
from model_release.triton.config import Tuning

#: Below this a measurement says nothing: its windows would be shorter than one pause of a busy machine.
LEAST_RUN_S = 2.1
#: A run that is longer is better spent on another repeat, whose spread shows the noise.
REPEAT_S = 3.0
MOST_REPEATS = 3


@dataclass(frozen=True)
class Runs:
    """How a candidate is measured: at each concurrency `repeats` runs of `seconds` each."""

    seconds: float
    repeats: int


def candidates(spec: ModelSpec) -> list[Tuning]:
    """
    Return the tunings to try: the spec's own if it is among the searched, then the simpler ones first.

    What the budget does not reach is cut off at the end. Without batching no request waits for others, and the number
    of instances is all that is searched. Of an ensemble a tuning is that of every part that is built from a checkpoint.
    """
    search, own = spec.benchmark.search, Tuning.from_spec(spec)
    if spec.serving.ensemble is not None and not spec.model_parts:
        return [own]
    delays = search.max_queue_delay_microseconds if spec.serving.batching else [0]
    preferred = own.preferred_batch_size
    grid = {Tuning(delay, preferred, count) for delay, count in itertools.product(delays, search.instance_count)}
    return sorted(grid, key=lambda tuning: (tuning != own, complexity(tuning)))


def complexity(tuning: Tuning) -> tuple[int, int, int]:
    """Return an order from simple to complex: fewer instances (memory), less waiting, fewer special sizes."""
    return tuning.instance_count, tuning.max_queue_delay_microseconds, len(tuning.preferred_batch_size)


def next_runs(left_s: float, candidates_left: int, levels: int, apply_s: float, least_run_s: float) -> Runs | None:
    """
    Return how the next candidate is measured so that the others fit too, or None when not even it fits.

    Repeats are dropped before runs are shortened, and runs are shortened to `least_run_s` before candidates are
    left out. `apply_s` is what it takes to bring a candidate onto bench, `levels` how many concurrencies there are.
    """
    share_s = (left_s / candidates_left - apply_s) / levels
    if share_s >= least_run_s:
        repeats = max(1, min(MOST_REPEATS, int(share_s / max(REPEAT_S, least_run_s))))
        return Runs(share_s / repeats, repeats)
    if left_s - apply_s >= levels * least_run_s:
        return Runs(least_run_s, 1)
    return None

"""What is tried on bench: the search of the spec, the simple first."""

from __future__ import annotations

import itertools

from model_release.spec import ModelSpec
from model_release.triton.config import Tuning


def candidates(spec: ModelSpec) -> list[Tuning]:
    """
    Return the tunings to try: the spec's own if it is among the searched, then the simpler ones first.

    What the budget does not reach is cut off at the end. Without batching no request waits for others: the number of
    instances and of threads is all that is searched. Of an ensemble a tuning is that of every part that is built from a
    checkpoint.
    """
    search, own = spec.benchmark.search, Tuning.from_spec(spec)
    if spec.serving.ensemble is not None and not spec.model_parts:
        return [own]
    batching = spec.serving.batching
    delays = search.max_queue_delay_microseconds if batching else [0]
    preferred = [tuple(sizes) for sizes in search.preferred_batch_size] if batching else []
    sizes = [None if size == spec.serving.max_batch_size else size for size in search.max_batch_size]
    threads = [None if str(count) == _own_threads(spec) else count for count in search.intra_op_thread_count]
    axes = (
        delays,
        preferred or [own.preferred_batch_size],
        search.instance_count,
        (sizes if batching else []) or [None],
        threads or [None],
    )
    grid = {Tuning(*values) for values in itertools.product(*axes)}
    fitting = [tuning for tuning in grid if _fits(tuning, spec)]
    return sorted(fitting, key=lambda tuning: (tuning != own, complexity(tuning)))


def _own_threads(spec: ModelSpec) -> str | None:
    return spec.serving.parameters.get("intra_op_thread_count")


def _fits(tuning: Tuning, spec: ModelSpec) -> bool:
    """Say whether no preferred size is above the largest batch."""
    most = spec.serving.max_batch_size if tuning.max_batch_size is None else tuning.max_batch_size
    return all(size <= most for size in tuning.preferred_batch_size)


def complexity(tuning: Tuning) -> tuple[int, int, int, int, int]:
    """Return an order from simple to complex: fewer instances (memory), threads, less waiting, fewer special sizes."""
    return (
        tuning.instance_count,
        tuning.intra_op_thread_count or 0,
        tuning.max_queue_delay_microseconds,
        len(tuning.preferred_batch_size),
        tuning.max_batch_size or 0,
    )

"""The benchmark: each candidate onto bench, measured at each concurrency within the budget, the best one chosen."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.benchmark import choose, perf_analyzer, plan
from model_release.benchmark.choose import Row
from model_release.environment import Environment, Replica
from model_release.errors import BenchmarkFailed
from model_release.spec import ModelSpec
from model_release.triton.config import Tuning
from model_release.triton.fleet import INPUT
from model_release.triton.replica import Arrays, ReplicaClient

log = logging.getLogger(__name__)
#: What bringing a candidate onto bench is taken to cost before the first was brought there.
_EXPECTED_APPLY_S = 3.0
#: A window that holds fewer requests of one client has no percentiles.
_LEAST_REQUESTS = 10
_PROBES = 3


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured, what was chosen, and what the budget did not reach; `to_dict` is benchmark.json."""

    model: str
    objective_p99_ms: float
    chosen: Tuning
    best: Row
    rows: list[Row]
    not_tried: list[Tuning] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "model": self.model,
            "objective_p99_ms": self.objective_p99_ms,
            "chosen": self.chosen.to_dict(),
            "best": self.best,
            "rows": self.rows,
            "not_tried": [tuning.to_dict() for tuning in self.not_tried],
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> dict[str, Any]:
        """Return what fits into a message between tasks."""
        tried = {Tuning.from_dict(row["tuning"]) for row in self.rows}
        shown = ("concurrency", "throughput_per_s", "p50_ms", "p99_ms", "mean_batch_size")
        return {
            "chosen": self.chosen.to_dict(),
            **{name: self.best[name] for name in shown},
            "tried": len(tried),
            "not_tried": len(self.not_tried),
            "seconds": round(self.seconds, 1),
        }

    def rows_of_chosen(self) -> list[Row]:
        """Return the rows of the chosen tuning, one a concurrency."""
        chosen = self.chosen.to_dict()
        return [row for row in self.rows if row["tuning"] == chosen]


def run_benchmark(
    spec: ModelSpec,
    replica: Replica,
    environment: Environment,
    recorded: Arrays,
    apply: Callable[[Tuning], None],
) -> BenchmarkResult:
    """
    Measure the candidates of the spec's search on one replica, and choose.

    `apply` brings a tuning onto the replica and returns once it is served. `recorded` has the arrays
    `input__<name>`, batch axis first, which are sent round-robin. Repeats are dropped before candidates are left
    out, and at least one candidate is measured. Raises BenchmarkFailed, ObjectiveNotMet, and what `apply` raises.
    """
    began = time.monotonic()
    levels = list(dict.fromkeys(spec.benchmark.concurrency))
    waiting = plan.candidates(spec)
    rows: list[Row] = []
    apply_s, least_run_s = _EXPECTED_APPLY_S, plan.LEAST_RUN_S
    while waiting:
        left_s = spec.benchmark.budget_s - (time.monotonic() - began)
        runs = plan.next_runs(left_s, len(waiting), len(levels), apply_s, least_run_s)
        if runs is None:
            if rows:
                break
            runs = plan.Runs(least_run_s, 1)
        tuning = waiting.pop(0)
        apply_began = time.monotonic()
        apply(tuning)
        apply_s = time.monotonic() - apply_began
        least_run_s = max(plan.LEAST_RUN_S, _least_run_s(spec, replica, environment, recorded))
        rows += measure(spec, replica, environment, recorded, levels, runs.seconds, tuning=tuning, repeats=runs.repeats)
    objective = spec.benchmark.objective.p99_ms
    chosen, best = choose.choose(spec.name, rows, objective)
    if waiting:
        log.warning("the budget of %g s left %d candidates untried", spec.benchmark.budget_s, len(waiting))
    return BenchmarkResult(spec.name, objective, chosen, best, rows, waiting, time.monotonic() - began)


def measure(
    spec: ModelSpec,
    replica: Replica,
    environment: Environment,
    recorded: Arrays,
    levels: Sequence[int],
    seconds: float,
    *,
    tuning: Tuning | None = None,
    repeats: int = 1,
) -> list[Row]:
    """
    Measure what the replica serves now: `repeats` runs of `seconds` at each concurrency of `levels`.

    Returns one row a concurrency, medians over the repeats: tuning, concurrency, throughput_per_s, p50_ms, p95_ms,
    p99_ms, queue_ms, compute_ms, mean_batch_size, batch_sizes, repeats, and spread, the widest relative distance of
    a repeat's throughput from their median. A run is lengthened when a window would hold too few requests.
    Raises BenchmarkFailed, ReplicaUnavailable.
    """
    seconds = max(seconds, _least_run_s(spec, replica, environment, recorded))
    tuning = tuning or Tuning.from_spec(spec)
    with TemporaryDirectory() as folder, ReplicaClient(replica, environment) as client:
        inputs = Path(folder) / "inputs.json"
        perf_analyzer.write_inputs(inputs, recorded, batching=spec.serving.batching)
        rows, batched = [], _batched(spec)
        for concurrency in levels:
            before = _batch_sizes(client, batched)
            runs = [
                perf_analyzer.run(spec.name, replica, environment, inputs, concurrency, seconds) for _ in range(repeats)
            ]
            batches = _since(before, _batch_sizes(client, batched))
            rows.append({"tuning": tuning.to_dict(), "concurrency": concurrency, **_medians(runs), **_shown(batches)})
            log.info("benchmark of %s: %s", spec.name, rows[-1])
    return rows


def _batched(spec: ModelSpec) -> str:
    """Return the Triton model whose executions show the batches: an ensemble's first part that has a queue."""
    return next((part.name for part in spec.model_parts.values() if part.serving.batching), spec.name)


def _medians(runs: Sequence[perf_analyzer.Measured]) -> Row:
    columns = {name: [asdict(run)[name] for run in runs] for name in asdict(runs[0])}
    row: Row = {name: round(statistics.median(values), 3) for name, values in columns.items()}
    throughputs, middle = columns["throughput_per_s"], row["throughput_per_s"]
    row["spread"] = round(max(abs(value - middle) for value in throughputs) / middle, 3)
    return {**row, "repeats": len(runs)}


def _batch_sizes(client: ReplicaClient, model: str) -> dict[int, int]:
    """Return how often a batch of each size was executed by what is loaded now."""
    total: dict[int, int] = {}
    for entry in client.statistics(model):
        for size, count in entry.batch_sizes.items():
            total[size] = total.get(size, 0) + count
    return total


def _since(before: dict[int, int], after: dict[int, int]) -> dict[int, int]:
    """Return the executions between two readings; all of the second when the model was loaded again meanwhile."""
    counts = {size: count - before.get(size, 0) for size, count in sorted(after.items())}
    if any(count < 0 for count in counts.values()):
        return dict(sorted(after.items()))
    return {size: count for size, count in counts.items() if count}


def _shown(batches: dict[int, int]) -> Row:
    executions = sum(batches.values())
    samples = sum(size * count for size, count in batches.items())
    return {
        "mean_batch_size": round(samples / executions, 2) if executions else None,
        "batch_sizes": {str(size): count for size, count in batches.items()},
    }


def _least_run_s(spec: ModelSpec, replica: Replica, environment: Environment, recorded: Arrays) -> float:
    """Return how long a run has to be for enough requests in each window, from the fastest of a few requests."""
    inputs = {name.removeprefix(INPUT): array[:1] for name, array in recorded.items() if name.startswith(INPUT)}
    if not inputs or not all(len(array) for array in inputs.values()):
        raise BenchmarkFailed(spec.name, "there is no recorded sample to send")
    fastest_s = float("inf")
    with ReplicaClient(replica, environment) as client:
        for _ in range(_PROBES):
            began = time.monotonic()
            client.infer(spec.name, inputs, batching=spec.serving.batching)
            fastest_s = min(fastest_s, time.monotonic() - began)
    return perf_analyzer.START_S + perf_analyzer.WINDOWS * _LEAST_REQUESTS * fastest_s

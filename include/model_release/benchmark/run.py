"""The benchmark of one server: the search within its budget, the curve of the chosen tuning, the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from model_release.benchmark.meter import Meter, Run, Target
from model_release.benchmark.result import BenchmarkResult, Row, described, nearest, rows_of
from model_release.benchmark.search import Found, Search
from model_release.errors import ObjectiveNotMet
from model_release.spec.serving import Benchmark
from model_release.triton.config import Tuning

log = logging.getLogger(__name__)
_SHOWN_ROWS = 8


def run_benchmark(
    target: Target,
    asked: Benchmark,
    candidates: Sequence[Tuning],
    apply: Callable[[Tuning], None],
    serving: Tuning | None = None,
) -> BenchmarkResult:
    """
    Search the candidates on one server, and choose; the chosen one is what is served afterwards.

    `apply` brings a tuning onto the server and returns once it is served; `serving` is the one that is served already.
    At least one candidate is measured. Raises BenchmarkFailed, ObjectiveNotMet, and what `apply` raises.
    """
    began = time.monotonic()
    objective = asked.objective.p99_ms
    with Meter(target) as meter:
        bench = _Bench(meter, apply)
        search = Search(bench, asked.concurrency, objective, asked.budget_s, time.monotonic, serving)
        found = search.run(candidates)
        if found.decision is not None:
            search.curve(found.decision.chosen)
    if found.not_tried:
        log.warning("the budget of %g s left %d candidates untried", asked.budget_s, len(found.not_tried))
    rows = [row for contender in found.contenders for row in rows_of(contender)]
    return _result(target.model, objective, asked.budget_s, found, rows, time.monotonic() - began)


class _Bench:
    def __init__(self, meter: Meter, apply: Callable[[Tuning], None]) -> None:
        self._meter, self.apply = meter, apply

    def run(self, concurrency: int, seconds: float) -> Run:
        return self._meter.run(concurrency, seconds)

    def least_run_s(self) -> float:
        return self._meter.least_run_s()


def _result(
    model: str, objective_p99_ms: float, budget_s: float, found: Found, rows: list[Row], seconds: float
) -> BenchmarkResult:
    """Raises ObjectiveNotMet, with the best of each candidate, when none meets it with confidence."""
    decision = found.decision
    if decision is None:
        why = f"p99 has to be at most {objective_p99_ms:g} ms with confidence, measured {_table(rows)}"
        raise ObjectiveNotMet(model, why)
    chosen = decision.chosen
    best = next(row for row in rows_of(chosen) if row["concurrency"] == chosen.level)
    return BenchmarkResult(
        model,
        objective_p99_ms,
        chosen.tuning,
        best,
        rows,
        decision.fastest.tuning,
        decision.settled,
        found.not_tried,
        budget_s,
        seconds,
    )


def _table(rows: list[Row]) -> str:
    """Return the lowest p99 of each tuning as one line."""
    told = [
        f"{row['p99_ms']:.1f} ms{_at_most(row)} at concurrency {row['concurrency']} ({described(row['tuning'])})"
        for row in nearest(rows)[:_SHOWN_ROWS]
    ]
    left = len(nearest(rows)) - len(told)
    return "; ".join(told) + (f"; and {left} more, further off" if left > 0 else "")


def _at_most(row: Row) -> str:
    high = row["intervals"]["p99_ms"]["high"]
    return "" if high is None else f" (it may be up to {high:.1f} ms)"

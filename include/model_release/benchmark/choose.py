"""Which candidate wins: numbers in, a tuning out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from model_release.benchmark.plan import complexity
from model_release.errors import ObjectiveNotMet
from model_release.triton.config import Tuning

Row = dict[str, Any]
#: Throughputs closer than this are taken as equal; repeats that spread wider widen it.
NOISE = 0.10


def choose(model: str, rows: Sequence[Row], objective_p99_ms: float) -> tuple[Tuning, Row]:
    """
    Return the tuning with the highest throughput whose p99 meets the objective, and the row that shows it.

    Among those within noise of the highest the simplest wins. Raises ObjectiveNotMet, with the best of each
    candidate, when none meets it.
    """
    meeting = [row for row in rows if row["p99_ms"] <= objective_p99_ms]
    if not meeting:
        raise ObjectiveNotMet(model, f"p99 has to be at most {objective_p99_ms:g} ms, measured {_table(rows)}")
    best: dict[Tuning, Row] = {}
    for row in meeting:
        tuning = Tuning.from_dict(row["tuning"])
        if tuning not in best or row["throughput_per_s"] > best[tuning]["throughput_per_s"]:
            best[tuning] = row
    highest = max(best.values(), key=_throughput)
    least = _throughput(highest) * (1 - max(NOISE, highest.get("spread", 0.0)))
    equal = [tuning for tuning, row in best.items() if _throughput(row) >= least]
    chosen = min(equal, key=complexity)
    return chosen, best[chosen]


def slowdown(candidate: Sequence[Row], stable: Sequence[Row]) -> float | None:
    """
    Return how many times fewer requests a second the candidate serves than stable: the median over concurrencies.

    None when they share no concurrency.
    """
    served = {row["concurrency"]: row["throughput_per_s"] for row in candidate}
    ratios = [
        row["throughput_per_s"] / served[row["concurrency"]] for row in stable if served.get(row["concurrency"], 0) > 0
    ]
    return statistics.median(ratios) if ratios else None


def _throughput(row: Row) -> float:
    return float(row["throughput_per_s"])


def _table(rows: Sequence[Row]) -> str:
    """Return the lowest p99 of each tuning as one line."""
    lowest: dict[Tuning, Row] = {}
    for row in rows:
        tuning = Tuning.from_dict(row["tuning"])
        if tuning not in lowest or row["p99_ms"] < lowest[tuning]["p99_ms"]:
            lowest[tuning] = row
    return "; ".join(
        f"{row['p99_ms']:.1f} ms at concurrency {row['concurrency']} (delay {tuning.max_queue_delay_microseconds} us, "
        f"{tuning.instance_count} instance{'s' if tuning.instance_count > 1 else ''})"
        for tuning, row in sorted(lowest.items(), key=lambda item: item[1]["p99_ms"])
    )

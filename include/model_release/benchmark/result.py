"""benchmark.json: what was measured, what was chosen and why, and what the budget did not reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model_release.benchmark.contender import Contender
from model_release.benchmark.intervals import CONFIDENCE, interval
from model_release.benchmark.meter import row_of
from model_release.triton.config import Tuning

Row = dict[str, Any]
#: Of what `to_dict` writes; a reader takes fields that it does not know.
SCHEMA = 2
_SHOWN = ("concurrency", "throughput_per_s", "p50_ms", "p99_ms", "mean_batch_size")


@dataclass(frozen=True)
class BenchmarkResult:
    """
    One benchmark; `to_dict` is benchmark.json.

    A row is one tuning at one concurrency: the medians of its runs, `intervals` of throughput_per_s and p99_ms (median,
    low, high; each bound holds with a confidence of 95 %), `batch_sizes` as Triton counted them, `repeats`, and
    whether the tuning was `judged` at this concurrency.
    """

    model: str
    objective_p99_ms: float
    chosen: Tuning
    best: Row
    rows: list[Row]
    fastest: Tuning | None = None
    settled: bool = True
    not_tried: list[Tuning] = field(default_factory=list)
    budget_s: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "objective_p99_ms": self.objective_p99_ms,
            "confidence": CONFIDENCE,
            "chosen": self.chosen.to_dict(),
            "fastest": (self.fastest or self.chosen).to_dict(),
            "settled": self.settled,
            "best": self.best,
            "rows": self.rows,
            "not_tried": [tuning.to_dict() for tuning in self.not_tried],
            "budget_s": self.budget_s,
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> dict[str, Any]:
        """Return what fits into a message between tasks."""
        tried = {Tuning.from_dict(row["tuning"]) for row in self.rows}
        return {
            "chosen": self.chosen.to_dict(),
            **{name: self.best[name] for name in _SHOWN},
            "p99_high_ms": self.best["intervals"]["p99_ms"]["high"],
            "settled": self.settled,
            "tried": len(tried),
            "not_tried": len(self.not_tried),
            "seconds": round(self.seconds, 1),
        }


def rows_of(contender: Contender) -> list[Row]:
    """Return a contender's rows, one a concurrency, rising."""
    return [
        {
            "tuning": contender.tuning.to_dict(),
            "concurrency": level,
            **row_of(runs),
            "repeats": len(runs),
            "judged": level == contender.level,
            "intervals": {
                "throughput_per_s": interval([run.throughput_per_s for run in runs]).to_dict(),
                "p99_ms": interval([run.p99_ms for run in runs]).to_dict(),
            },
        }
        for level, runs in sorted(contender.runs.items())
    ]


def described(tuning: dict[str, Any]) -> str:
    """Return a tuning, as `to_dict` wrote it, in few words; what is as the config says is left out."""
    count = tuning["instance_count"]
    parts = [f"delay {tuning['max_queue_delay_microseconds']} us", f"{count} instance{'s' if count > 1 else ''}"]
    if tuning["preferred_batch_size"]:
        parts.append("preferred " + "/".join(str(size) for size in tuning["preferred_batch_size"]))
    if tuning.get("max_batch_size") is not None:
        parts.append(f"at most {tuning['max_batch_size']} a batch")
    if tuning.get("intra_op_thread_count") is not None:
        threads = tuning["intra_op_thread_count"]
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    return ", ".join(parts)


def nearest(rows: list[Row]) -> list[Row]:
    """Return the row of each tuning with the lowest p99, the lowest first."""
    lowest: dict[str, Row] = {}
    for row in rows:
        name = described(row["tuning"])
        if name not in lowest or row["p99_ms"] < lowest[name]["p99_ms"]:
            lowest[name] = row
    return sorted(lowest.values(), key=lambda row: float(row["p99_ms"]))

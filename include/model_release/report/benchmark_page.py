"""benchmark.html: what was measured and chosen, for a person who has to decide something by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_release.benchmark.result import described
from model_release.report import benchmark_charts as charts
from model_release.report.page import write_page

_TEMPLATE = "benchmark.html.j2"


def write_benchmark_page(found: dict[str, Any], path: Path) -> None:
    """
    Write what benchmark.json holds as one HTML file that needs nothing else.

    `found` is BenchmarkResult.to_dict, with `against_stable`, `against_name` and `memory` where there are some; its
    `best` is None where no row meets the objective.
    """
    best = found["best"]
    rows = [{**row, "told": described(row["tuning"]), "is_best": row == best} for row in found["rows"]]
    rows.sort(key=lambda row: (-row["throughput_per_s"], row["p99_ms"]))
    write_page(
        _TEMPLATE,
        path,
        found=found,
        best=best,
        told=described(best["tuning"]) if best else None,
        rows=rows,
        not_tried=[described(tuning) for tuning in found["not_tried"]],
        against=found.get("against_stable"),
        against_name=found.get("against_name", "stable's version"),
        memory=found.get("memory"),
        curve=charts.throughput_against_p99(found["rows"], best, found["objective_p99_ms"]),
        batches=charts.batches_formed(best["batch_sizes"]) if best else None,
    )

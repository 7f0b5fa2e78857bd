"""The page of a benchmark: what a person reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_release.benchmark.contender import Contender
from model_release.benchmark.result import BenchmarkResult, rows_of
from model_release.benchmark.versus import Comparison
from model_release.report.benchmark_page import write_benchmark_page
from model_release.triton.config import Tuning
from tests.unit.played_bench import played_run


@pytest.fixture
def found() -> dict[str, Any]:
    """Two candidates, of which the second is chosen at concurrency 8."""
    slow = Contender(Tuning(0), [8], {8: [played_run(100, 20)]})
    fast = Contender(Tuning(500, (), 2, 16, 1), [8], {1: [played_run(40, 4)], 8: [played_run(300, 9)] * 4})
    rows = [row for contender in (slow, fast) for row in rows_of(contender)]
    result = BenchmarkResult("<b>toy</b>", 10, fast.tuning, rows[-1], rows, not_tried=[Tuning(9000)], budget_s=20)
    return result.to_dict()


def written(found: dict[str, Any], folder: Path) -> str:
    write_benchmark_page(found, folder / "benchmark.html")
    return (folder / "benchmark.html").read_text()


def test_it_says_what_was_chosen_and_how_sure_it_is(found: dict[str, Any], tmp_path: Path) -> None:
    page = written(found, tmp_path)

    assert "Delay 500 us, 2 instances, at most 16 a batch, 1 thread." in page
    assert "300 requests a second with 8 at a time, at a p99 of 9 ms (at most 9 ms)" in page
    assert "did not reach: delay 9000 us, 1 instance" in page
    assert page.count("<svg") == 2


def test_names_of_models_are_no_markup(found: dict[str, Any], tmp_path: Path) -> None:
    assert "<b>toy" not in written(found, tmp_path)


def test_the_comparison_and_the_memory_are_told(found: dict[str, Any], tmp_path: Path) -> None:
    comparison = Comparison(8, [played_run(100)] * 2, [played_run(120)] * 2).to_dict()
    replica = {"replica": "blue-0", "free_bytes": {"host": 1e9}, "fits": True}
    memory = {"needed_bytes": {"host": 4e7}, "peak_bytes": {"host": 9e7}, "replicas": [replica]}

    page = written({**found, "against_stable": comparison, "memory": memory}, tmp_path)

    assert "fewer requests a second by the factor 1.2" in page
    assert "40 MB on host" in page
    assert "blue-0: 1 GB free on host, enough" in page


def test_where_none_meets_the_objective_that_is_the_verdict(found: dict[str, Any], tmp_path: Path) -> None:
    page = written({**found, "best": None, "chosen": None}, tmp_path)

    assert "None meets the objective." in page
    assert page.count("<svg") == 1


def test_the_same_facts_give_the_same_page(found: dict[str, Any], tmp_path: Path) -> None:
    assert written(found, tmp_path) == written(found, tmp_path)


def test_gpus_have_their_columns_where_there_are_some(found: dict[str, Any], tmp_path: Path) -> None:
    gpu = {"utilization": 0.42, "memory_used_bytes": 1e9, "seconds_per_1000_requests": 1.5}
    rows = [{**row, "gpu": gpu} for row in found["rows"]]

    assert "GPU s for 1,000" in written({**found, "rows": rows}, tmp_path)
    assert "GPU" not in written(found, tmp_path)

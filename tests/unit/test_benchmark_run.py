"""The benchmark's loop: candidates, budget, repeats and batch sizes, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_release.benchmark import run as benchmark
from model_release.benchmark import slowdown
from model_release.benchmark.perf_analyzer import Measured
from model_release.errors import LoadFailed
from model_release.triton.config import Tuning
from model_release.triton.replica import VersionStatistics
from tests.unit.served_toys import ENVIRONMENT, spec

RECORDED = {"input__x": np.zeros((2, 3), np.float32)}
REPLICA = ENVIRONMENT.pair("default").bench.replicas[0]


class Bench:
    """A clock, a server that counts batches of two, and a perf_analyzer whose runs take their time."""

    def __init__(self, throughputs: dict[int, list[float]]) -> None:
        self.now_s = 0.0
        self.infer_s = 0.001
        self.delay = -1
        self.throughputs = throughputs
        self.batches = 0
        self.runs: list[tuple[int, int, float]] = []

    def apply(self, tuning: Tuning) -> None:
        self.now_s += 2
        self.delay = tuning.max_queue_delay_microseconds
        self.batches = 0

    def run(self, _model: str, _replica: Any, _env: Any, _inputs: Path, concurrency: int, seconds: float) -> Measured:
        self.now_s += seconds
        self.batches += 10
        self.runs.append((self.delay, concurrency, seconds))
        return Measured(self.throughputs[self.delay].pop(0), 1, 2, 3, 0.1, 0.2)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    played = Bench({0: [100.0] * 99, 500: [200.0] * 99, 2000: [50.0] * 99})

    class Client:
        def __init__(self, *_: Any) -> None:
            self.name = "bench-0"

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def infer(self, *_: Any, **__: Any) -> None:
            played.now_s += played.infer_s

        def statistics(self, _model: str) -> list[VersionStatistics]:
            return [VersionStatistics(1, 0, 0, {2: played.batches})]

    monkeypatch.setattr(benchmark, "ReplicaClient", Client)
    monkeypatch.setattr(benchmark.perf_analyzer, "run", played.run)
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(monotonic=lambda: played.now_s))
    return played


def searching(budget_s: float, **changes: Any) -> Any:
    search = {"max_queue_delay_microseconds": [0, 500, 2000], "instance_count": [1]}
    return spec(benchmark={"concurrency": [1, 8], "search": search, "budget_s": budget_s, **changes})


def run(bench: Bench, budget_s: float, **changes: Any) -> benchmark.BenchmarkResult:
    return benchmark.run_benchmark(searching(budget_s, **changes), REPLICA, ENVIRONMENT, RECORDED, bench.apply)


def test_every_candidate_is_measured_at_every_level_within_the_budget(bench: Bench) -> None:
    result = run(bench, budget_s=40)

    assert {(delay, level) for delay, level, _ in bench.runs} == {(d, c) for d in (0, 500, 2000) for c in (1, 8)}
    assert result.chosen == Tuning(500)
    assert result.not_tried == []
    assert result.seconds == pytest.approx(40, abs=2)


def test_a_budget_too_small_tells_what_was_not_tried(bench: Bench) -> None:
    result = run(bench, budget_s=14)

    assert {delay for delay, _, _ in bench.runs} == {0, 2000}
    assert result.not_tried == [Tuning(500)]
    assert result.to_dict()["not_tried"][0]["max_queue_delay_microseconds"] == 500
    assert result.summary()["tried"] == 2


def test_at_least_one_candidate_is_measured(bench: Bench) -> None:
    result = run(bench, budget_s=0.1)

    assert len(result.rows) == 2
    assert len(result.not_tried) == 2


def test_a_wide_budget_is_used_for_repeats_and_their_median(bench: Bench) -> None:
    bench.throughputs[0] = [90.0, 400.0, 100.0] * 9
    result = run(bench, budget_s=120)

    first = next(row for row in result.rows if row["tuning"]["max_queue_delay_microseconds"] == 0)
    assert (first["throughput_per_s"], first["repeats"], first["spread"]) == (100.0, 3, 3.0)


def test_a_slow_model_gets_windows_that_hold_enough_requests(bench: Bench) -> None:
    bench.infer_s = 0.5
    run(bench, budget_s=60)

    assert all(seconds >= 3 * 10 * 0.5 for _, _, seconds in bench.runs)


def test_batch_sizes_are_those_of_the_run_alone(bench: Bench) -> None:
    bench.apply(Tuning(0))
    bench.batches = 1000

    row = benchmark.measure(spec(), REPLICA, ENVIRONMENT, RECORDED, [1], 3.0, tuning=Tuning(0))[0]

    assert (row["batch_sizes"], row["mean_batch_size"]) == ({"2": 10}, 2.0)


def test_a_candidate_that_does_not_load_ends_the_benchmark(bench: Bench) -> None:
    def refuse(_: Tuning) -> None:
        raise LoadFailed("bench-0", "toy", 1, "no")

    with pytest.raises(LoadFailed):
        benchmark.run_benchmark(searching(40), REPLICA, ENVIRONMENT, RECORDED, refuse)


def test_stable_is_compared_with_the_chosen_config_alone(bench: Bench) -> None:
    result = run(bench, budget_s=40)
    stable = [{"concurrency": c, "throughput_per_s": 300.0} for c in (1, 8)]

    assert slowdown(result.rows_of_chosen(), stable) == 1.5
    assert slowdown(result.rows_of_chosen(), []) is None

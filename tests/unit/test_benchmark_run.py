"""The benchmark of one server, without a server: what is measured, chosen, and written down."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_release.benchmark import BenchmarkResult, Meter, Target, candidates, meter, run_benchmark
from model_release.benchmark import run as benchmark
from model_release.benchmark.perf_analyzer import Measured
from model_release.errors import BenchmarkFailed, LoadFailed, ObjectiveNotMet
from model_release.triton.config import Tuning
from model_release.triton.gauges import Gauges, Gpu
from model_release.triton.replica import VersionStatistics
from tests.unit.served_toys import ENVIRONMENT, spec

RECORDED = {"input__x": np.zeros((2, 3), np.float32)}
REPLICA = ENVIRONMENT.pair("default").bench.replicas[0]
TARGET = Target("toy", REPLICA, ENVIRONMENT, RECORDED)


class Bench:
    """A clock, a server that counts batches of two, and a perf_analyzer whose runs take their time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.infer_s = 0.001
        self.delay = -1
        self.p99_ms = 3.0
        self.batches = 0
        self.gauges: Gauges | None = None

    def apply(self, tuning: Tuning) -> None:
        self.now_s += 2
        self.delay = tuning.max_queue_delay_microseconds
        self.batches = 0

    def run(self, _model: str, _replica: Any, _env: Any, _inputs: Path, concurrency: int, seconds: float) -> Measured:
        self.now_s += seconds
        self.batches += 10
        throughput = {0: 100.0, 500: 200.0, 2000: 50.0}.get(self.delay, 100.0)
        return Measured(throughput * concurrency, 1, 2, self.p99_ms, 0.1, 0.2)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    played = Bench()

    class Client:
        def __init__(self, *_: Any) -> None:
            self.name = "bench-0"

        def close(self) -> None:
            return

        def infer(self, *_: Any, **__: Any) -> None:
            played.now_s += played.infer_s

        def statistics(self, _model: str) -> list[VersionStatistics]:
            return [VersionStatistics(1, 0, 0, {2: played.batches})]

    clock = SimpleNamespace(monotonic=lambda: played.now_s)
    monkeypatch.setattr(meter, "ReplicaClient", Client)
    monkeypatch.setattr(meter.perf_analyzer, "run", played.run)
    monkeypatch.setattr(meter.gauges, "read", lambda _: played.gauges)
    monkeypatch.setattr(meter, "time", clock)
    monkeypatch.setattr(benchmark, "time", clock)
    return played


def run(bench: Bench, budget_s: float = 60, **changes: Any) -> BenchmarkResult:
    search = {"max_queue_delay_microseconds": [0, 500, 2000], "instance_count": [1]}
    searched = spec(benchmark={"concurrency": [1, 8], "search": search, "budget_s": budget_s, **changes})
    return run_benchmark(TARGET, searched.benchmark, candidates(searched), bench.apply)


def test_the_chosen_tuning_is_served_afterwards_and_has_a_row_at_each_level(bench: Bench) -> None:
    result = run(bench)

    assert (result.chosen, bench.delay) == (Tuning(500), 500)
    chosen = [row for row in result.rows if row["tuning"] == result.chosen.to_dict()]
    assert [row["concurrency"] for row in chosen] == [1, 8]
    assert [row["judged"] for row in chosen] == [False, True]
    assert result.best == chosen[1]
    assert result.seconds < 60


def test_it_is_written_as_json_with_its_intervals_and_batches(bench: Bench) -> None:
    written = json.loads(json.dumps(run(bench).to_dict()))

    assert written["schema"] == 2
    assert written["chosen"]["max_queue_delay_microseconds"] == 500
    assert written["best"]["intervals"]["p99_ms"] == {"median": 3, "low": 3, "high": 3}
    assert written["best"]["batch_sizes"] == {"2": 10 * written["best"]["repeats"]}
    assert written["best"]["mean_batch_size"] == 2.0
    assert written["not_tried"] == []


def test_the_summary_says_what_was_tried_and_how_sure_it_is(bench: Bench) -> None:
    summary = run(bench, budget_s=0.1).summary()

    assert (summary["tried"], summary["not_tried"]) == (1, 2)
    assert summary["p99_high_ms"] == 3


def test_an_objective_that_none_meets_is_told_with_what_each_reached(bench: Bench) -> None:
    with pytest.raises(ObjectiveNotMet) as caught:
        run(bench, objective={"p99_ms": 2})

    assert "at most 2 ms with confidence, measured 3.0 ms" in str(caught.value)
    assert "at concurrency 1 (delay 500 us, 1 instance)" in str(caught.value)


def test_a_slow_model_gets_windows_that_hold_enough_requests(bench: Bench) -> None:
    bench.infer_s = 0.5
    with Meter(TARGET) as opened:
        assert opened.least_run_s() >= 3 * 10 * 0.5


def test_windows_are_long_enough_for_many_requests_at_a_time(bench: Bench) -> None:
    bench.infer_s = 0.05
    with Meter(TARGET) as opened:
        opened.least_run_s()
        before = bench.now_s
        opened.run(64, 1.2)

    assert bench.now_s - before >= 3 * 64 * 0.05


def test_batch_sizes_are_those_of_the_run_alone(bench: Bench) -> None:
    bench.batches = 1000
    with Meter(TARGET) as opened:
        assert opened.run(1, 3.0).batch_sizes == {2: 10}


def test_a_candidate_that_does_not_load_ends_the_benchmark(bench: Bench) -> None:
    def refuse(_: Tuning) -> None:
        raise LoadFailed("bench-0", "toy", 1, "no")

    with pytest.raises(LoadFailed):
        run_benchmark(TARGET, spec().benchmark, candidates(spec()), refuse)


def test_nothing_to_send_is_said(bench: Bench) -> None:
    with (
        pytest.raises(BenchmarkFailed, match="no recorded sample"),
        Meter(Target("toy", REPLICA, ENVIRONMENT, {"output__y": np.zeros(2)})),
    ):
        pass


def test_the_work_of_the_gpus_is_counted_for_a_thousand_requests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.gauges = Gauges(1.0, 2.0, {"GPU-a": Gpu(0.9, 5e9, 8e9), "GPU-b": Gpu(0.1, 1e9, 8e9)})
    monkeypatch.setattr(meter, "_SAMPLE_GPU_S", 0.0)
    monkeypatch.setattr(meter.perf_analyzer, "run", lambda *_: _after_a_look(bench))
    with Meter(TARGET) as opened:
        work = opened.run(4, 1).gpu

    assert work == meter.GpuWork(0.5, 6e9, 1000 * 1.0 / 400)


def _after_a_look(bench: Bench) -> Measured:
    """Answer once the watch has read the gauges a few times."""
    import time

    time.sleep(0.05)
    return bench.run("toy", None, None, Path(), 4, 1)

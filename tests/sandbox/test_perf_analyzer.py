"""The benchmark with NVIDIA's perf_analyzer against a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_release.benchmark import measure, perf_analyzer, run_benchmark, slowdown
from model_release.environment import Environment, PerfAnalyzer
from model_release.errors import BenchmarkFailed, ObjectiveNotMet
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from model_release.triton.fleet import load_everywhere
from tests.sandbox.triton_parts import MODEL, VERSION, Server, Tritons, recorded, spec, tritons

__all__ = ["tritons"]


def unclaimed() -> None:
    """Stand for a claim that is never lost."""


def searching(p99_ms: float = 5000, **search: Any) -> Any:
    benchmark = {"objective": {"p99_ms": p99_ms}, "concurrency": [1, 4], "budget_s": 20, "search": search}
    return spec(benchmark=benchmark)


@pytest.fixture(scope="module")
def bench(tritons: Tritons) -> Iterator[Server]:
    server = tritons.start("bench")
    yield server
    server.kill()


@pytest.fixture
def served(tritons: Tritons, bench: Server) -> Iterator[Server]:
    tritons.place(bench)
    load(tritons, bench)
    yield bench
    tritons.remove(bench)


def load(tritons: Tritons, bench: Server) -> None:
    load_everywhere(tritons.fleet(bench), MODEL, VERSION, tritons.environment, unclaimed)


def applying(tritons: Tritons, bench: Server, applied: list[Tuning]) -> Callable[[Tuning], None]:
    def apply(tuning: Tuning) -> None:
        applied.append(tuning)
        tritons.write_config(bench, configs.build_config(spec(), VERSION, tuning))
        load(tritons, bench)

    return apply


def test_a_level_is_one_row_of_sensible_numbers(tritons: Tritons, served: Server) -> None:
    rows = measure(spec(), served.replica, tritons.environment, recorded(), [1, 4], 2.1, repeats=2)

    assert [row["concurrency"] for row in rows] == [1, 4]
    for row in rows:
        assert row["throughput_per_s"] > 0
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["queue_ms"] >= 0
        assert row["compute_ms"] > 0
        assert row["repeats"] == 2
        assert 1 <= row["mean_batch_size"] <= 8
    assert rows[0]["mean_batch_size"] == 1
    assert sum(rows[0]["batch_sizes"].values()) > 10
    assert json.loads(json.dumps(rows)) == rows


def test_perf_analyzer_opens_the_restricted_config_with_the_key_alone(tritons: Tritons, served: Server) -> None:
    without = tritons.environment.model_copy(update={"triton_key": None})
    with pytest.raises(BenchmarkFailed, match="restricted"):
        measure(spec(), served.replica, without, recorded(), [1], 1)


def test_the_search_applies_each_candidate_and_chooses_one_within_its_budget(tritons: Tritons, served: Server) -> None:
    applied: list[Tuning] = []
    searched = searching(max_queue_delay_microseconds=[0, 1000], instance_count=[1])
    began = time.monotonic()

    result = run_benchmark(
        searched, served.replica, tritons.environment, recorded(), applying(tritons, served, applied)
    )

    assert applied == [Tuning(0), Tuning(1000)]
    assert result.chosen in applied
    assert result.not_tried == []
    assert len(result.rows) == 4
    assert time.monotonic() - began < 1.5 * searched.benchmark.budget_s
    assert json.loads(json.dumps(result.to_dict()))["chosen"] == result.chosen.to_dict()
    same = [row for row in result.rows if row["tuning"] == result.chosen.to_dict()]
    assert slowdown(result.rows_of_chosen(), same) == 1


def test_an_objective_that_no_candidate_meets_is_shown_with_what_was_measured(tritons: Tritons, served: Server) -> None:
    impossible = searching(p99_ms=0.001, max_queue_delay_microseconds=[0])
    short = impossible.model_copy(update={"benchmark": impossible.benchmark.model_copy(update={"budget_s": 1.0})})

    with pytest.raises(ObjectiveNotMet, match=r"at most 0.001 ms, measured .* ms at concurrency \d \(delay 0 us"):
        run_benchmark(short, served.replica, tritons.environment, recorded(), lambda tuning: None)


def test_the_recorded_samples_are_what_is_sent(tritons: Tritons, bench: Server) -> None:
    """Whatever perf_analyzer would make up is no index of a table of three."""
    table = numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        MODEL,
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq"])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    gathering = spec(
        inputs=[{"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [0, 2]}],
        outputs=[{"name": "y", "dtype": "float32", "shape": ["seq"]}],
        dynamic_axes={"seq": {"min": 2, "max": 9}},
    )
    samples = {"input__ids": np.array([[0, 1, 2, 1], [2, 2, 0, 1]])}
    tritons.put(f"{bench.prefix}/{MODEL}/warmup/ids", samples["input__ids"][0].tobytes())
    tritons.place(bench, gathering, model_bytes=model.SerializeToString())
    load(tritons, bench)
    try:
        rows = measure(gathering, bench.replica, tritons.environment, samples, [2], 2.1)
        with pytest.raises(BenchmarkFailed, match="perf_analyzer exited"):
            perf_analyzer.run(
                MODEL, bench.replica, tritons.environment, _inputs(tritons, {"input__ids": np.array([[7, 8]])}), 1, 1
            )
    finally:
        tritons.remove(bench)

    assert rows[0]["throughput_per_s"] > 0


def test_a_model_that_is_not_served_is_said_in_perf_analyzers_words(tritons: Tritons, bench: Server) -> None:
    with pytest.raises(BenchmarkFailed, match=r"perf_analyzer exited \d+ at concurrency 1 on bench: .*unknown"):
        perf_analyzer.run("unknown", bench.replica, tritons.environment, _inputs(tritons, recorded()), 1, 1)


def test_an_absent_perf_analyzer_is_named(tritons: Tritons, served: Server) -> None:
    absent = PerfAnalyzer(command=["/nowhere/perf_analyzer"])
    environment: Environment = tritons.environment.model_copy(update={"perf_analyzer": absent})

    with pytest.raises(BenchmarkFailed, match="/nowhere/perf_analyzer does not start"):
        measure(spec(), served.replica, environment, recorded(), [1], 1)


def _inputs(tritons: Tritons, samples: dict[str, Any]) -> Path:
    path = tritons.folder / "inputs.json"
    perf_analyzer.write_inputs(path, samples)
    return path

"""The benchmark with NVIDIA's perf_analyzer against a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from model_release.benchmark import Meter, Target, candidates, perf_analyzer, run_benchmark
from model_release.benchmark.memory import Watch, fit
from model_release.benchmark.versus import PLENTY
from model_release.cli.main import app
from model_release.environment import Environment, PerfAnalyzer
from model_release.errors import BenchmarkFailed, ObjectiveNotMet
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from model_release.triton.fleet import load_everywhere
from model_release.triton.replica import ReplicaClient
from tests.sandbox.releasing import environment_file
from tests.sandbox.triton_parts import MODEL, VERSION, Server, Tritons, await_true, recorded, spec, tritons

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


def target(tritons: Tritons, served: Server, **changes: Any) -> Target:
    values = {"environment": tritons.environment, "recorded": recorded(), **changes}
    return Target(MODEL, served.replica, **values)


def test_a_run_is_sensible_numbers(tritons: Tritons, served: Server) -> None:
    with Meter(target(tritons, served)) as meter:
        alone, together = meter.run(1, 1.2), meter.run(4, 1.2)

    for run in (alone, together):
        assert run.throughput_per_s > 0
        assert 0 < run.p50_ms <= run.p95_ms <= run.p99_ms
        assert run.queue_ms >= 0
        assert run.compute_ms > 0
        assert run.gpu is None
    assert set(alone.batch_sizes) == {1}
    assert alone.batch_sizes[1] > 10
    assert max(together.batch_sizes) <= 8


def test_perf_analyzer_opens_the_restricted_config_with_the_key_alone(tritons: Tritons, served: Server) -> None:
    without = tritons.environment.model_copy(update={"triton_key": None})
    with (
        pytest.raises(BenchmarkFailed, match="restricted"),
        Meter(target(tritons, served, environment=without)) as meter,
    ):
        meter.run(1, 1)


def test_the_search_applies_each_candidate_and_leaves_the_chosen_one_served(tritons: Tritons, served: Server) -> None:
    applied: list[Tuning] = []
    searched = searching(max_queue_delay_microseconds=[0, 1000], max_batch_size=[4])
    began = time.monotonic()

    result = run_benchmark(
        target(tritons, served), searched.benchmark, candidates(searched), applying(tritons, served, applied)
    )

    assert {*applied, *result.not_tried} == {Tuning(0, (), 1, 4), Tuning(1000, (), 1, 4)}
    assert result.chosen in applied
    assert time.monotonic() - began < 2 * searched.benchmark.budget_s
    assert json.loads(json.dumps(result.to_dict()))["chosen"] == result.chosen.to_dict()
    with ReplicaClient(served.replica, tritons.environment) as client:
        config = client.config(MODEL)
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == result.chosen.max_queue_delay_microseconds


def test_an_objective_that_no_candidate_meets_is_shown_with_what_was_measured(tritons: Tritons, served: Server) -> None:
    impossible = searching(p99_ms=0.001, max_queue_delay_microseconds=[0])
    short = impossible.benchmark.model_copy(update={"budget_s": 1.0})

    with pytest.raises(ObjectiveNotMet, match=r"at most 0.001 ms with confidence, measured .* ms .* \(delay 0 us"):
        run_benchmark(target(tritons, served), short, [Tuning(0)], lambda tuning: None)


def test_the_command_tunes_a_model_of_anybodys_triton_and_leaves_it_as_it_was(
    tritons: Tritons, served: Server, tmp_path: Path
) -> None:
    with ReplicaClient(served.replica, tritons.environment) as client:
        before = client.config(MODEL)
        file, out = environment_file(tmp_path / "environment.yaml", tritons.environment), tmp_path / "found"
        options = ["--environment", str(file), "--json", "benchmark", MODEL, "--url", served.replica.grpc]
        search = ["--concurrency", "4", "--delay", "0", "--delay", "3000", "--p99-ms", "5000", "--budget-s", "8"]

        done = CliRunner().invoke(app, [*options, *search, "--out", str(out)], catch_exceptions=False)
        after = client.config(MODEL)

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["chosen"]["max_queue_delay_microseconds"] in (0, 3000)
    against = found["against_stable"]
    assert against["rounds"] >= 2 or against["slowdown"]["median"] <= PLENTY, "one round is enough where it is plain"
    assert (out / "benchmark.html").read_text().count("<svg") == 2
    assert after == before


def test_the_memory_of_a_model_is_seen_at_its_server(tritons: Tritons, bench: Server) -> None:
    """An instance is a process of its own here, with ONNX Runtime loaded: more than 20 MB."""
    server = psutil.Process(bench.process.pid)
    await_true(lambda: not server.children(), 30, lambda: f"{server.children()} outlive their models")
    with Watch(bench.replica) as memory:
        tritons.place(bench)
        load(tritons, bench)
        held = memory.held()
    room = fit(held, [bench.replica])
    tritons.remove(bench)

    assert held["host"] > 20e6
    assert memory.peak()["host"] >= 0
    assert room.replicas[0]["free_bytes"]["host"] > 1e8
    assert fit({"host": 1e15}, [bench.replica]).misfits[0]["replica"] == bench.name


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
        with Meter(Target(MODEL, bench.replica, tritons.environment, samples)) as meter:
            run = meter.run(2, 1.5)
        with pytest.raises(BenchmarkFailed, match="perf_analyzer exited"):
            perf_analyzer.run(
                MODEL, bench.replica, tritons.environment, _inputs(tritons, {"input__ids": np.array([[7, 8]])}), 1, 1
            )
    finally:
        tritons.remove(bench)

    assert run.throughput_per_s > 0


def test_a_model_that_is_not_served_is_said_in_perf_analyzers_words(tritons: Tritons, bench: Server) -> None:
    with pytest.raises(BenchmarkFailed, match=r"perf_analyzer exited \d+ at concurrency 1 on bench: .*unknown"):
        perf_analyzer.run("unknown", bench.replica, tritons.environment, _inputs(tritons, recorded()), 1, 1)


def test_an_absent_perf_analyzer_is_named(tritons: Tritons, served: Server) -> None:
    absent = PerfAnalyzer(command=["/nowhere/perf_analyzer"])
    environment: Environment = tritons.environment.model_copy(update={"perf_analyzer": absent})

    with (
        pytest.raises(BenchmarkFailed, match="/nowhere/perf_analyzer does not start"),
        Meter(target(tritons, served, environment=environment)) as meter,
    ):
        meter.run(1, 1)


def _inputs(tritons: Tritons, samples: dict[str, Any]) -> Path:
    path = tritons.folder / "inputs.json"
    perf_analyzer.write_inputs(path, samples)
    return path

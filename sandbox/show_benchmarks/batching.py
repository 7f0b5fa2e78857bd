"""Dynamic batching on against off, and Triton against FastAPI with onnxruntime: throughput at equal p99."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient

from model_release.benchmark import run_benchmark
from model_release.benchmark.intervals import Interval, interval
from model_release.benchmark.result import described
from model_release.spec.serving import Benchmark, LatencyObjective
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from sandbox.show_benchmarks.load import Generator, Level, System
from sandbox.show_benchmarks.models import Shown
from sandbox.show_benchmarks.page import say, table
from sandbox.show_benchmarks.servers import LocalTriton, fastapi

ON, OFF, ON_HTTP, FASTAPI = "batching on", "batching off", "batching on, JSON", "FastAPI"
_OFF_MODEL = "without_batching"
#: What the tuner may choose of for the server with batching; both servers then have as many instances.
_DELAYS, _INSTANCES = (0, 500, 2000), (1, 2)
_BOUNDS = (1, 2, 4, 8)
_ENOUGH = 20
_NS_PER_MS = 1e6


@dataclass
class Curves:
    """Each system's levels, by round: `found[system][round][concurrency]`."""

    model: str
    tuning: str
    found: dict[str, list[dict[int, Level]]]
    execution_ms: dict[int, float]
    """What one execution of a batch took on the server with batching, by the samples in it."""

    def bounds_ms(self) -> list[float]:
        """Return the p99s at which systems are compared: FastAPI's where it serves most, and multiples of it."""
        levels = self.found[FASTAPI][0]
        rates = {
            level: statistics.median(each[level].throughput_per_s for each in self.found[FASTAPI]) for level in levels
        }
        most = max(rates, key=lambda level: rates[level])
        p99_ms = statistics.median(each[most].p99_ms for each in self.found[FASTAPI])
        return [p99_ms * times for times in _BOUNDS]

    def at_p99(self, system: str, bound_ms: float) -> list[float]:
        """Return the highest throughput of each round whose p99 is within the bound, 0 where none is."""
        return [
            max((level.throughput_per_s for level in round_.values() if level.p99_ms <= bound_ms), default=0.0)
            for round_ in self.found[system]
        ]

    def times(self, system: str, other: str, bound_ms: float) -> Interval | None:
        """Return how many times the other's throughput a system has at a p99, or None where one has none at all."""
        pairs = zip(self.at_p99(system, bound_ms), self.at_p99(other, bound_ms), strict=True)
        ratios = [one / another for one, another in pairs if one > 0 and another > 0]
        return interval(ratios) if ratios else None


def measure(shown: Shown, onnx: Path, folder: Path, *, levels: Sequence[int], rounds: int, seconds: float) -> Curves:
    """Measure one model on all systems, by turns within each round."""
    triton = LocalTriton(folder)
    with ExitStack() as running:
        running.enter_context(triton.running())
        triton.place(onnx, configs.build_config(shown.spec(), 1))
        chosen = _tune(shown, triton, levels)
        off = configs.build_config(shown.spec().served_as(_OFF_MODEL), 1, Tuning(0, (), chosen.instance_count))
        off.ClearField("dynamic_batching")
        triton.place(onnx, off)
        url = running.enter_context(fastapi(shown, onnx, folder, os.cpu_count() or 1))
        systems = [
            System(FASTAPI, url, "http", shown.name),
            System(OFF, triton.replica.grpc, "grpc", _OFF_MODEL),
            System(ON, triton.replica.grpc, "grpc", shown.name),
            System(ON_HTTP, triton.replica.http, "http", shown.name),
        ]
        generator = Generator(triton.environment.perf_analyzer.command, shown, folder)
        found: dict[str, list[dict[int, Level]]] = {system.name: [] for system in systems}
        for number in range(rounds):
            for system in systems:
                found[system.name].append({})
            for level in levels:
                for system in systems if number % 2 == 0 else systems[::-1]:
                    found[system.name][number][level] = generator.run(system, level, seconds)
            say(f"{shown.name}: round {number + 1} of {rounds}")
        return Curves(shown.name, described(chosen.to_dict()), found, _execution_ms(triton, shown.name))


def _execution_ms(triton: LocalTriton, model: str) -> dict[int, float]:
    """Return what one execution took, for the sizes that are powers of two, by Triton's own statistics."""
    with InferenceServerClient(triton.replica.grpc) as client:
        stats = client.get_inference_statistics(model).model_stats[0].batch_stats
    times = {int(each.batch_size): each.compute_infer for each in stats if each.compute_infer.count >= _ENOUGH}
    return {size: time.ns / time.count / _NS_PER_MS for size, time in sorted(times.items()) if size & (size - 1) == 0}


def _tune(shown: Shown, triton: LocalTriton, levels: Sequence[int]) -> Tuning:
    """Let the benchmark find the tuning with batching, at the highest load; it is what is served afterwards."""
    asked = Benchmark(objective=LatencyObjective(p99_ms=60_000), concurrency=[max(levels)], budget_s=60)
    tunings = [Tuning(delay, (), count) for count in _INSTANCES for delay in _DELAYS]
    return run_benchmark(
        triton.target(shown), asked, tunings, triton.applier(shown), Tuning.from_spec(shown.spec())
    ).chosen


def page(found: Sequence[Curves]) -> str:
    """Return the section of the page."""
    parts = []
    for curves in found:
        bounds = curves.bounds_ms()
        rows: list[list[Any]] = []
        for system in curves.found:
            cells = [f"{statistics.median(curves.at_p99(system, bound)):.0f}" for bound in bounds]
            rows.append([system, *cells])
        for system, other in ((ON, OFF), (ON_HTTP, FASTAPI), (ON, FASTAPI), (OFF, FASTAPI)):
            times = [curves.times(system, other, bound) for bound in bounds]
            rows.append([f"**{system} / {other}**", *("-" if each is None else f"{each}" for each in times)])
        title = f"### {curves.model}\n\nWith batching: {curves.tuning}. Requests a second at a p99 of at most:\n"
        parts += [title, table(["", *(f"{bound:.1f} ms" for bound in bounds)], rows)]
        parts += [_levels(curves), _executions(curves)]
    return "\n".join(parts)


def _levels(curves: Curves) -> str:
    """Return all levels: median requests a second and p99."""
    levels = list(curves.found[ON][0])
    rows = [[system, *(_median(curves.found[system], level) for level in levels)] for system in curves.found]
    heading = "\nAll levels, requests a second and p99 in ms, by requests at a time:\n"
    return "\n".join([heading, table(["", *(str(level) for level in levels)], rows)])


def _executions(curves: Curves) -> str:
    """Return what batching saves at all: the time of one execution, and of a sample in it, by size."""
    sizes = list(curves.execution_ms)
    rows = [
        ["one execution, ms", *(f"{curves.execution_ms[size]:.2f}" for size in sizes)],
        ["a sample in it, ms", *(f"{curves.execution_ms[size] / size:.2f}" for size in sizes)],
    ]
    heading = (
        "\nWhat an execution takes by the samples in it, with batching, while it shares the cores with the rest:\n"
    )
    return "\n".join([heading, table(["", *map(str, sizes)], rows)])


def _median(rounds: Sequence[dict[int, Level]], level: int) -> str:
    rate = statistics.median(each[level].throughput_per_s for each in rounds)
    return f"{rate:.0f} at {statistics.median(each[level].p99_ms for each in rounds):.1f}"

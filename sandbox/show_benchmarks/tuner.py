"""The tuner, and NVIDIA's Model Analyzer, against brute force: how near a choice comes, in which share of the time."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_release.benchmark import Meter, Run, run_benchmark
from model_release.benchmark.contender import Contender, best_of
from model_release.benchmark.intervals import Interval
from model_release.benchmark.result import BenchmarkResult, described
from model_release.benchmark.versus import compare
from model_release.spec.serving import Benchmark, LatencyObjective
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from sandbox.show_benchmarks import analyzer
from sandbox.show_benchmarks.models import Shown
from sandbox.show_benchmarks.page import say, table
from sandbox.show_benchmarks.servers import LocalTriton

DELAYS, INSTANCES, THREADS = (0, 500, 2000), (1, 2), (None, 2)
GRID = [
    Tuning(delay, (), count, None, threads) for delay, count, threads in itertools.product(DELAYS, INSTANCES, THREADS)
]
#: Wide enough that throughput decides; the unit tests let the p99 decide.
OBJECTIVE_P99_MS = 60_000.0
_TIMES_LESS = 4


@dataclass(frozen=True)
class Searched:
    """A search of one model; `share` is the throughput of its choice over brute force's, measured by turns."""

    by: str
    chosen: Tuning
    seconds: float
    share: Interval


def measure(
    shown: Shown, onnx: Path, folder: Path, *, levels: Sequence[int], repeats: int, seconds: float, grid: list[Tuning]
) -> list[Searched]:
    """
    Search one model by brute force, by the tuner with a quarter of that time, and by Model Analyzer if it is there.

    The choices are compared afterwards. Returns brute force first.
    """
    triton = LocalTriton(folder)
    with triton.running():
        triton.place(onnx, configs.build_config(shown.spec(), 1))
        brute, brute_s = _brute_force(shown, triton, levels, repeats, seconds, grid)
        tuned = tune(shown, triton, levels, brute_s / _TIMES_LESS, grid)
    found = [("brute force", brute, brute_s), ("the tuner", tuned.chosen, tuned.seconds)]
    if analyzer.is_installed():
        analyzed = analyzer.analyze(shown, onnx, folder / "analyzer", levels, grid)
        found.append(("Model Analyzer", analyzed.tuning, analyzed.seconds))
    searches = []
    with triton.running():
        for by, tuning, took_s in found:
            share = _share(shown, triton, max(levels), tuning, brute)
            searches.append(Searched(by, tuning, took_s, share))
            say(f"{shown.name}: {by} chose {described(tuning.to_dict())} in {took_s:.0f} s: {share}")
    return searches


def tune(
    shown: Shown, triton: LocalTriton, levels: Sequence[int], budget_s: float, grid: Sequence[Tuning]
) -> BenchmarkResult:
    """Search as a release does."""
    asked = Benchmark(objective=LatencyObjective(p99_ms=OBJECTIVE_P99_MS), concurrency=list(levels), budget_s=budget_s)
    return run_benchmark(triton.target(shown), asked, grid, triton.applier(shown))


def _brute_force(
    shown: Shown, triton: LocalTriton, levels: Sequence[int], repeats: int, seconds: float, grid: Sequence[Tuning]
) -> tuple[Tuning, float]:
    """Measure every candidate at every level, as often; returns the best, and the seconds that it took."""
    began, apply = time.monotonic(), triton.applier(shown)
    contenders = []
    with Meter(triton.target(shown)) as meter:
        for tuning in grid:
            apply(tuning)
            contender = Contender(tuning, sorted(levels, reverse=True))
            for level, _ in itertools.product(levels, range(repeats)):
                contender.add(level, meter.run(level, seconds))
            contenders.append(contender)
    return best_of(contenders).tuning, time.monotonic() - began


def _share(shown: Shown, triton: LocalTriton, level: int, chosen: Tuning, brute: Tuning) -> Interval:
    """Return a choice's throughput over that of brute force's, by turns; 1 where they are the same."""
    if chosen == brute:
        return Interval(1.0, 1.0, 1.0)
    apply = triton.applier(shown)
    with Meter(triton.target(shown)) as meter:

        def measuring(tuning: Tuning) -> Callable[[], Run]:
            def run() -> Run:
                apply(tuning)
                return meter.run(level, 3.0)

            return run

        # Where it is allowed to be no slower at all, only the rounds end it.
        slower = compare(level, 1.0, measuring(chosen), measuring(brute), lambda: True).slowdown
    low, high = slower.high, slower.low
    return Interval(1 / slower.median, None if low is None else 1 / low, None if high is None else 1 / high)


def page(searches: Sequence[Searched]) -> str:
    """Return the section of the page; `searches` begin with brute force."""
    rows = [
        [
            searched.by,
            described(searched.chosen.to_dict()),
            f"{searched.seconds:.0f} s ({searched.seconds / searches[0].seconds:.0%})",
            f"{searched.share}",
        ]
        for searched in searches
    ]
    text = (
        f"{len(GRID)} candidates: delays {DELAYS} us, instances {INSTANCES}, threads 1 or 2. Brute force measures each "
        "at each level, as often as the tuner measures its finalists; the tuner has a quarter of the time that this "
        "took. Model Analyzer (NVIDIA's, local mode, as it comes but for the real inputs) sweeps the same candidates "
        "at the same levels, each once. The last column is the throughput of a choice over that of brute force's, at "
        "the highest load, measured anew by turns; 1 exactly where both chose the same.\n\n"
    )
    return text + table(["searched by", "chose", "took (of brute force's time)", "share of its throughput"], rows)


def repeat(
    shown: Shown, onnx: Path, folder: Path, *, levels: Sequence[int], budget_s: float, times: int
) -> list[BenchmarkResult]:
    """Tune the same model again and again."""
    triton = LocalTriton(folder)
    with triton.running():
        triton.place(onnx, configs.build_config(shown.spec(), 1))
        found = []
        for _ in range(times):
            found.append(tune(shown, triton, levels, budget_s, GRID))
            say(f"{shown.name}: {described(found[-1].chosen.to_dict())} in {found[-1].seconds:.0f} s")
    return found


def repeated_page(model: str, found: Sequence[BenchmarkResult]) -> str:
    """Return the section of the page."""
    rows = []
    for each in found:
        rate = each.best["intervals"]["throughput_per_s"]
        bounds = f"{rate['median']:.0f} ({rate['low']:.0f} to {rate['high']:.0f})"
        rows.append(
            [described(each.chosen.to_dict()), bounds, f"{each.seconds:.0f} s", "yes" if each.settled else "no"]
        )
    most = Counter(row[0] for row in rows).most_common(1)[0][1]
    rates = [each.best["throughput_per_s"] for each in found]
    said = (
        f"The same tuning of {model}, {len(found)} times: the same choice {most} times; the highest measured "
        f"throughput of a choice is {max(rates) / min(rates):.2f} times the lowest.\n\n"
    )
    return said + table(["chosen", "requests a second", "took", "settled"], rows)

"""`model-release benchmark`: any model on any Triton measured, and tuned there if that is asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from model_release.benchmark import foreign
from model_release.benchmark.meter import Target
from model_release.benchmark.plan import complexity
from model_release.benchmark.result import described
from model_release.cli.output import Output, nowhere
from model_release.environment import Environment, PerfAnalyzer, Replica
from model_release.report.benchmark_page import write_benchmark_page
from model_release.spec.serving import Benchmark, LatencyObjective
from model_release.triton.config import Tuning

_COLUMNS = ["", "candidate", "at a time", "requests/s", "p50 ms", "p99 ms", "queue ms", "compute ms", "batch", "runs"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(benchmark)


def benchmark(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model's name on the server.")],
    url: Annotated[str, typer.Option(help="host:port of the server's gRPC.")] = "127.0.0.1:8001",
    metrics: Annotated[str, typer.Option(help="host:port of its metrics, for GPUs.")] = "127.0.0.1:8002",
    inputs: Annotated[
        Path | None,
        typer.Option(help=".npz of inputs by name, batch axis first; else generated.", exists=True, dir_okay=False),
    ] = None,
    p99_ms: Annotated[float, typer.Option(min=0.001, help="The latency that users were promised.")] = 50,
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Requests at a time; again for each.")] = None,
    delay: Annotated[
        list[int] | None, typer.Option(min=0, help="Search: max_queue_delay_microseconds; again for each.")
    ] = None,
    instances: Annotated[list[int] | None, typer.Option(min=1, help="Search: instances; again for each.")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=0, help="Search: intra_op_thread_count of ONNX Runtime; again for each.")
    ] = None,
    max_batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Search; again for each.")] = None,
    budget_s: Annotated[float, typer.Option(min=1, help="How long the search may take.")] = 120,
    out: Annotated[Path | None, typer.Option(help="Folder for benchmark.json and benchmark.html.")] = None,
    perf_analyzer: Annotated[str, typer.Option(help="NVIDIA's load generator.")] = "perf_analyzer",
) -> None:
    """
    Measure what a Triton serves; with values to search, find the batching that serves most within the p99.

    It needs no model config, no S3 and no environment. A search loads the model again and again with other configs,
    and at the end with the one that was served: the server has to run with --model-control-mode=explicit, and nobody
    should depend on it meanwhile. With --environment, its triton_key and perf_analyzer are used.
    """
    output: Output = context.obj
    environment = _environment(output, perf_analyzer)
    replica = Replica(name=url, http="none", grpc=url, metrics=metrics)
    config = foreign.served_config(replica, model, environment)
    samples = foreign.generated_samples(config) if inputs is None else foreign.real_samples(inputs, config)
    if inputs is None:
        output.say("[yellow]note[/yellow] generated inputs are sent; real ones, by --inputs, may take another time")
    target = Target(model, replica, environment, samples, batching=config.max_batch_size > 0)
    asked = Benchmark(
        objective=LatencyObjective(p99_ms=p99_ms), concurrency=concurrency or [1, 8, 32], budget_s=budget_s
    )
    if any((delay, instances, threads, max_batch_size)):
        own = foreign.tuning_of(config)
        candidates = _candidates(own, delay, instances, threads, max_batch_size)
        with foreign.restored(target, config) as bench, output.progress() as progress:
            progress(f"searching {len(candidates)} candidates, for at most {budget_s:g} s and a comparison")
            found = foreign.tune(target, bench, asked, candidates)
    else:
        with output.progress() as progress:
            progress(f"measuring what is served, with {asked.concurrency} requests at a time")
            found = foreign.measure_served(target, config, asked)
    _tell(output, found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmark.json").write_text(json.dumps(found, indent=1))
        write_benchmark_page(found, out / "benchmark.html")
        output.say(f"{out / 'benchmark.html'}")
    output.give(found)


def _environment(output: Output, perf_analyzer: str) -> Environment:
    if output.environment_file is not None:
        return output.environment
    return nowhere().model_copy(update={"perf_analyzer": PerfAnalyzer(command=[perf_analyzer])})


def _candidates(own: Tuning, *searched: list[int] | None) -> list[Tuning]:
    """Return each value with each, the served tuning first and then the simple; what is not searched stays."""
    now = (own.max_queue_delay_microseconds, own.instance_count, own.intra_op_thread_count, own.max_batch_size)
    axes: list[Sequence[int | None]] = [values or [served] for values, served in zip(searched, now, strict=True)]
    grid = {
        Tuning(delay or 0, own.preferred_batch_size, count or 1, most, threads)
        for delay, count, threads, most in itertools.product(*axes)
    }
    return sorted(grid, key=lambda tuning: (tuning != own, complexity(tuning)))


def _tell(output: Output, found: dict[str, Any]) -> None:
    best = found["best"]
    rows = sorted(found["rows"], key=lambda row: (-row["throughput_per_s"], row["p99_ms"]))
    table = [
        [
            "*" if row == best else "",
            described(row["tuning"]),
            row["concurrency"],
            _bounds(row, "throughput_per_s"),
            row["p50_ms"],
            _bounds(row, "p99_ms"),
            row["queue_ms"],
            row["compute_ms"],
            row["mean_batch_size"],
            row["repeats"],
        ]
        for row in rows
    ]
    output.table(f"{found['model']}, objective p99 {found['objective_p99_ms']:g} ms", _COLUMNS, table)
    if best is None:
        output.say("[red]none[/red] meets the objective with confidence")
        return
    sizes = ", ".join(f"{size}: {count}" for size, count in best["batch_sizes"].items())
    output.say(f"[green]*[/green] batches of each size that were executed there: {sizes}")
    against = found.get("against_stable")
    if against is not None:
        faster = {name: None if value is None else 1 / value for name, value in against["slowdown"].items()}
        bounds = "" if faster["low"] is None else f" ({faster['high']:.2f} to {faster['low']:.2f})"
        output.say(
            f"[green]{escape(described(found['chosen']))}[/green]: {faster['median']:.2f}{bounds} times the requests a "
            f"second of what was served, by turns, with {against['concurrency']} at a time"
        )


def _bounds(row: dict[str, Any], name: str) -> str:
    found = row["intervals"][name]
    bounds = "" if found["low"] is None else f" ({found['low']:.4g} to {found['high']:.4g})"
    return f"{row[name]:.4g}{bounds}"

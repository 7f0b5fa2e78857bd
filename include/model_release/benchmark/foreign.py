"""
A model on any Triton: measured as it is served, and tuned there if the server takes a config with a load.

A config that comes with a load stays until the server is started again or the model unloaded: `restored` sends back the
one that was served before. That needs --model-control-mode=explicit, and a server whose users bear a few reloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_release.benchmark.contender import Contender
from model_release.benchmark.meter import Meter, Target
from model_release.benchmark.result import BenchmarkResult, rows_of
from model_release.benchmark.run import run_benchmark
from model_release.benchmark.versus import Comparison, compare
from model_release.environment import Environment, Replica
from model_release.errors import ReplicaUnavailable, SamplesUnusable
from model_release.spec.serving import Benchmark
from model_release.triton.config import THREADS, Tuning
from model_release.triton.fleet import INPUT
from model_release.triton.replica import Arrays, ReplicaClient, ReplicaError
from model_release.triton.sections import numpy_dtype

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Generated where no real ones are given.
_GENERATED_SAMPLES = 16
_REPEATS = 3


def served_config(replica: Replica, model: str, environment: Environment) -> ModelConfig:
    """Return the config that a server serves a model with. Raises ReplicaUnavailable."""
    with ReplicaClient(replica, environment) as client:
        try:
            return client.config(model)
        except ReplicaError as error:
            raise ReplicaUnavailable(client.name, str(error)) from None


def tuning_of(config: ModelConfig) -> Tuning:
    """Return the part of a served config that is searched."""
    batching = config.dynamic_batching
    threads = config.parameters[THREADS].string_value if THREADS in config.parameters else ""
    return Tuning(
        batching.max_queue_delay_microseconds,
        tuple(batching.preferred_batch_size),
        config.instance_group[0].count if config.instance_group else 1,
        config.max_batch_size,
        int(threads) if threads else None,
    )


def tuned(config: ModelConfig, tuning: Tuning) -> ModelConfig:
    """Return a served config with another tuning; dynamic batching is switched on where the model takes batches."""
    changed = type(config)()
    changed.CopyFrom(config)
    for group in changed.instance_group:
        group.count = tuning.instance_count
    if config.max_batch_size > 0:
        changed.max_batch_size = config.max_batch_size if tuning.max_batch_size is None else tuning.max_batch_size
        changed.dynamic_batching.SetInParent()
        changed.dynamic_batching.max_queue_delay_microseconds = tuning.max_queue_delay_microseconds
        del changed.dynamic_batching.preferred_batch_size[:]
        changed.dynamic_batching.preferred_batch_size.extend(sorted(tuning.preferred_batch_size))
    if tuning.intra_op_thread_count is not None:
        changed.parameters[THREADS].string_value = str(tuning.intra_op_thread_count)
    return changed


# --- what is sent -------------------------------------------------------------------------------


def real_samples(path: Path, config: ModelConfig) -> Arrays:
    """Read an .npz of arrays by input name, batch axis first. Raises SamplesUnusable, naming what is missing."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise SamplesUnusable(str(path), str(error)) from None
    problems = []
    for entry in config.input:
        dtype = numpy_dtype(entry.data_type)
        if entry.name not in found:
            problems.append(f"it has no array {entry.name!r}, which is an input")
        elif found[entry.name].dtype.name != dtype:
            problems.append(f"{entry.name!r} is {found[entry.name].dtype.name}, the input is {dtype}")
    sizes = {len(found[entry.name]) for entry in config.input if entry.name in found}
    if len(sizes) > 1 or 0 in sizes:
        problems.append(f"its arrays hold {sorted(sizes)} samples; each has to hold as many, and at least one")
    if problems:
        raise SamplesUnusable(str(path), "; ".join(problems))
    return {INPUT + entry.name: found[entry.name] for entry in config.input}


def generated_samples(config: ModelConfig, seed: int = 7) -> Arrays:
    """
    Return samples of normal numbers, or of 0 and 1 for whole ones.

    Raises SamplesUnusable for an input of text, or of a size that only its users know.
    """
    draw = np.random.default_rng(seed)
    samples: Arrays = {}
    for entry in config.input:
        dtype = numpy_dtype(entry.data_type)
        dims = list(entry.dims) if config.max_batch_size > 0 else list(entry.dims)[1:]
        if dtype is None or any(size < 0 for size in dims):
            why = f"input {entry.name!r} is text, or of any size: give real ones by --inputs FILE.npz"
            raise SamplesUnusable("generated samples", why)
        shape = (_GENERATED_SAMPLES, *dims)
        numbers = draw.normal(size=shape) if dtype.startswith("float") else draw.integers(0, 2, size=shape)
        samples[INPUT + entry.name] = numbers.astype(dtype)
    return samples


# --- what is measured ---------------------------------------------------------------------------


def measure_served(target: Target, config: ModelConfig, asked: Benchmark) -> dict[str, Any]:
    """Measure what is served at each concurrency of `asked`; returns what benchmark.json holds, with nothing chosen."""
    contender = Contender(tuning_of(config), sorted(asked.concurrency))
    with Meter(target) as meter:
        seconds = max(meter.least_run_s(), min(3.0, asked.budget_s / _REPEATS / len(contender.levels)))
        for _ in range(_REPEATS):
            for level in contender.levels:
                contender.add(level, meter.run(level, seconds))
    rows = rows_of(contender)
    objective = asked.objective.p99_ms
    meeting = [row for row in rows if row["intervals"]["p99_ms"]["high"] <= objective]
    best = max(meeting, key=lambda row: float(row["throughput_per_s"]), default=None)
    result = BenchmarkResult(
        target.model, objective, contender.tuning, best or rows[0], rows, settled=True, budget_s=asked.budget_s
    )
    return {**result.to_dict(), "best": best, "chosen": None}


@dataclass
class Tuned:
    """A model whose config is changed for a while; `load` brings a config onto its server."""

    served: ModelConfig
    load: Callable[[ModelConfig], None]


@contextmanager
def restored(target: Target, config: ModelConfig) -> Iterator[Tuned]:
    """Give what loads other configs, and load the one that was served before at the end, whatever happens."""
    timeout_s = target.environment.load_timeout_s
    with ReplicaClient(target.replica, target.environment) as client:

        def load(changed: ModelConfig) -> None:
            client.load(target.model, timeout_s, version=0, config=changed)

        try:
            yield Tuned(config, load)
        finally:
            load(config)


def tune(target: Target, bench: Tuned, asked: Benchmark, candidates: Sequence[Tuning]) -> dict[str, Any]:
    """
    Search the candidates on the server, and compare the chosen one by turns with what was served.

    Returns what benchmark.json holds, `against_stable` being the comparison, and `config` the text to serve. Raises
    BenchmarkFailed, ObjectiveNotMet, LoadFailed.
    """

    def apply(tuning: Tuning) -> None:
        bench.load(tuned(bench.served, tuning))

    result = run_benchmark(target, asked, candidates, apply)
    chosen = tuned(bench.served, result.chosen)
    comparison = _compare(target, bench, chosen, result)
    return {
        **result.to_dict(),
        "against_stable": comparison.to_dict(),
        "against_name": "what was served",
        "config": str(chosen),
    }


def _compare(target: Target, bench: Tuned, chosen: ModelConfig, result: BenchmarkResult) -> Comparison:
    on_server = [chosen]
    with Meter(target) as meter:

        def measuring(config: ModelConfig) -> Callable[[], Any]:
            def measure() -> Any:
                if on_server[0] is not config:
                    bench.load(config)
                    on_server[0] = config
                return meter.run(result.best["concurrency"], max(2.0, meter.least_run_s()))

            return measure

        return compare(result.best["concurrency"], 1.0, measuring(chosen), measuring(bench.served), lambda: True)

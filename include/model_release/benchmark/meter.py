"""One measurement of one server: perf_analyzer's numbers, the batches that Triton formed, and the GPUs' work."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from model_release.benchmark import perf_analyzer
from model_release.environment import Environment, Replica
from model_release.errors import BenchmarkFailed
from model_release.triton import gauges
from model_release.triton.fleet import INPUT
from model_release.triton.replica import Arrays, ReplicaClient

log = logging.getLogger(__name__)
#: Below this a run says nothing: its windows would be shorter than one pause of a busy machine.
LEAST_RUN_S = 1.2
#: A window that holds fewer requests of one client has no percentiles.
_LEAST_REQUESTS = 10
_PROBES = 3
_SAMPLE_GPU_S = 0.5


@dataclass(frozen=True)
class Target:
    """
    What is measured: a model on one replica, and what is sent to it.

    `recorded` has the arrays `input__<name>`, batch axis first, which are sent one sample a request, round and round.
    """

    model: str
    replica: Replica
    environment: Environment
    recorded: Arrays
    batching: bool = True
    batched: str | None = None
    """The Triton model whose executions show the batches: of an ensemble, its first part that has a queue."""


@dataclass(frozen=True)
class GpuWork:
    """What the GPUs did during a run: mean utilization of one, memory in use of all, seconds for 1,000 requests."""

    utilization: float
    memory_used_bytes: float
    seconds_per_1000_requests: float


@dataclass(frozen=True)
class Run:
    """
    One run at one concurrency: requests a second, latencies as the client saw them, the server's own means.

    `queue_ms` and `compute_ms` are of the server's statistics, as are `batch_sizes`: how often a batch of a size was
    executed during the run.
    """

    throughput_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_ms: float
    batch_sizes: dict[int, int] = field(default_factory=dict)
    gpu: GpuWork | None = None


class Meter:
    """Measures a target for as long as it is open."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._client = ReplicaClient(target.replica, target.environment)
        self._alone_s = 0.0

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory()
        self._inputs = Path(self._folder.name) / "inputs.json"
        self._require_samples()
        perf_analyzer.write_inputs(self._inputs, self.target.recorded, batching=self.target.batching)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._folder.cleanup()

    def run(self, concurrency: int, seconds: float) -> Run:
        """
        Load the server for about `seconds`; longer where a window would be over before so many requests are answered.

        Raises BenchmarkFailed, ReplicaUnavailable.
        """
        target, answered_s = self.target, concurrency * self._alone_s
        seconds = max(seconds, perf_analyzer.START_S + perf_analyzer.WINDOWS * answered_s)
        before = self._batch_sizes()
        with _GpuWatch(target.replica) as watch:
            measured = perf_analyzer.run(
                target.model, target.replica, target.environment, self._inputs, concurrency, seconds
            )
        batches = _since(before, self._batch_sizes())
        run = Run(**asdict(measured), batch_sizes=batches, gpu=watch.work(measured.throughput_per_s))
        log.info("%s at concurrency %d: %s", target.model, concurrency, run)
        return run

    def least_run_s(self) -> float:
        """Return how long a run has to be for enough requests in each window, from the fastest of a few requests."""
        inputs = {name.removeprefix(INPUT): array[:1] for name, array in self._samples().items()}
        fastest_s = float("inf")
        for _ in range(_PROBES):
            began = time.monotonic()
            self._client.infer(self.target.model, inputs, batching=self.target.batching)
            fastest_s = min(fastest_s, time.monotonic() - began)
        self._alone_s = fastest_s
        return max(LEAST_RUN_S, perf_analyzer.START_S + perf_analyzer.WINDOWS * _LEAST_REQUESTS * fastest_s)

    def _samples(self) -> Arrays:
        return {name: array for name, array in self.target.recorded.items() if name.startswith(INPUT)}

    def _require_samples(self) -> None:
        samples = self._samples()
        if not samples or not all(len(array) for array in samples.values()):
            raise BenchmarkFailed(self.target.model, "there is no recorded sample to send")

    def _batch_sizes(self) -> dict[int, int]:
        """Return how often a batch of each size was executed by what is loaded now."""
        total: dict[int, int] = {}
        for entry in self._client.statistics(self.target.batched or self.target.model):
            for size, count in entry.batch_sizes.items():
                total[size] = total.get(size, 0) + count
        return total


def _since(before: dict[int, int], after: dict[int, int]) -> dict[int, int]:
    """Return the executions between two readings; all of the second when the model was loaded again meanwhile."""
    counts = {size: count - before.get(size, 0) for size, count in sorted(after.items())}
    if any(count < 0 for count in counts.values()):
        return dict(sorted(after.items()))
    return {size: count for size, count in counts.items() if count}


def mean_batch_size(batches: dict[int, int]) -> float | None:
    """Return the mean size of the executed batches."""
    executions = sum(batches.values())
    samples = sum(size * count for size, count in batches.items())
    return round(samples / executions, 2) if executions else None


def together(runs: Sequence[Run]) -> dict[int, int]:
    """Return the executed batches of several runs."""
    total: dict[int, int] = {}
    for run in runs:
        for size, count in run.batch_sizes.items():
            total[size] = total.get(size, 0) + count
    return dict(sorted(total.items()))


class _GpuWatch:
    """Reads the GPUs' gauges again and again while it is open; without a GPU it does nothing."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._read: list[gauges.Gauges] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        first = gauges.read(self._replica)
        self._thread = threading.Thread(target=self._watch, name="gpu-watch") if first and first.gpus else None
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_GPU_S):
            found = gauges.read(self._replica)
            if found is not None:
                self._read.append(found)

    def work(self, throughput_per_s: float) -> GpuWork | None:
        """Return what the GPUs did, or None where none was seen."""
        if not self._read:
            return None
        busy: float = statistics.fmean(sum(gpu.utilization for gpu in each.gpus.values()) for each in self._read)
        used = max(sum(gpu.memory_used_bytes for gpu in each.gpus.values()) for each in self._read)
        gpus = max(len(each.gpus) for each in self._read)
        return GpuWork(round(busy / gpus, 3), used, round(1000 * busy / throughput_per_s, 4))


def row_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the medians of runs of one kind as JSON values, with the batches of all of them."""
    names = ("throughput_per_s", "p50_ms", "p95_ms", "p99_ms", "queue_ms", "compute_ms")
    medians = {name: round(statistics.median(getattr(run, name) for run in runs), 3) for name in names}
    batches = together(runs)
    sizes = {str(size): count for size, count in batches.items()}
    work = _gpu_medians([run.gpu for run in runs if run.gpu is not None])
    return {**medians, "mean_batch_size": mean_batch_size(batches), "batch_sizes": sizes, "gpu": work}


def _gpu_medians(works: Sequence[GpuWork]) -> dict[str, float] | None:
    names = [each.name for each in fields(GpuWork)]
    return {name: statistics.median(getattr(work, name) for work in works) for name in names} if works else None

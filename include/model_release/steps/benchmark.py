"""benchmark: on bench, where nobody is hurt: first load, proof, accuracy, the best batching; sealed as `tuned`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model_release.benchmark import BenchmarkResult, Row, measure, run_benchmark, slowdown
from model_release.environment import Environment
from model_release.errors import AccuracyTooLow, ObjectiveNotMet
from model_release.identity import Release
from model_release.repository import manifest as manifests
from model_release.repository.manifest import Manifest
from model_release.steps.context import Step, begin
from model_release.steps.serve import CONFIG, load, put_on, recorded_samples, sealed_config, take_off
from model_release.triton import config as configs
from model_release.triton.replica import ReplicaClient

BENCH = "bench"
REPORT = "benchmark.json"
_ACCURACY_BATCH = 32
#: The rounds in which a slowdown has to show, and the share of the budget that measuring one version in one may take.
_ROUNDS = 3
_ROUND_SHARE = 0.15


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Find the config that serves the version best, compare it with stable's, and seal it.

    Raises LoadFailed, ProofFailed, AccuracyTooLow, BenchmarkFailed, ObjectiveNotMet.
    """
    with begin(release, environment, "benchmark") as step:
        sealed = step.archive.sealed(release.version, "tuned")
        if sealed is not None:
            return {"already_sealed": True, **sealed.summary}
        base = step.archive.require(release.version)
        with _bench_cleared(step):
            put_on(step, BENCH, base, sealed_config(step, release.version))
            candidate_accuracy = _accuracy(step)
            result = _sweep(step, base)
            _compare_with_stable(step, base, result, candidate_accuracy)
        summary = {"benchmark": result.summary(), "accuracy": candidate_accuracy}
        _seal(step, base, result, summary)
        step.event("benchmarked", **summary)
        return {"already_sealed": False, **summary}


@contextmanager
def _bench_cleared(step: Step) -> Iterator[None]:
    """Leave bench without the model, whatever happens."""
    try:
        yield
    finally:
        take_off(step, BENCH)


def _sweep(step: Step, base: Manifest) -> BenchmarkResult:
    def apply(tuning: configs.Tuning) -> None:
        load(step, BENCH, base, configs.build_config(step.spec, base.version, tuning))

    replica = step.pair.bench.replicas[0]
    return run_benchmark(step.spec, replica, step.environment, recorded_samples(step, base), apply)


def _accuracy(step: Step) -> float | None:
    """Return the share of the golden set that the version on bench answers rightly, or None without a golden set."""
    from model_release.parity import load_samples

    accuracy = step.spec.accuracy
    if accuracy is None:
        return None
    golden = load_samples(accuracy.golden_set, step.spec, step.environment, with_label=True)
    labels, output = golden["label"], step.spec.outputs[0].name
    size = min(_ACCURACY_BATCH, step.spec.serving.max_batch_size)
    right = 0
    with ReplicaClient(step.pair.bench.replicas[0], step.environment) as client:
        for start in range(0, len(labels), size):
            batch = {tensor.name: golden[tensor.name][start : start + size] for tensor in step.spec.inputs}
            answer = client.infer(step.release.model, batch)[output]
            right += int(np.sum(np.argmax(answer, axis=-1) == labels[start : start + size]))
    return right / len(labels)


def _compare_with_stable(step: Step, base: Manifest, result: BenchmarkResult, accuracy: float | None) -> None:
    """
    Hold the candidate's accuracy and throughput against stable's version, on the same bench.

    Machines are noisy: a slowdown stops the release only if it shows in every one of some rounds, candidate and stable
    by turns.
    """
    spec, stable = step.spec, step.claim.check().stable
    least = spec.accuracy.minimum if spec.accuracy else 0.0
    ratios: list[float] = []
    while stable is not None and len(ratios) < _ROUNDS:
        own = result.rows_of_chosen() if not ratios else _measured(step, base, result.chosen)
        stable_base = step.archive.require(stable.version)
        put_on(step, BENCH, stable_base, sealed_config(step, stable.version))
        if spec.accuracy is not None and not ratios:
            least = max(least, (_accuracy(step) or 0.0) - spec.accuracy.margin)
        ratio = slowdown(own, _measure(step, stable_base))
        if ratio is None or ratio <= spec.benchmark.max_slowdown:
            break
        ratios.append(ratio)
    if len(ratios) == _ROUNDS and stable is not None:
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        raise ObjectiveNotMet(
            spec.name,
            f"in each of {_ROUNDS} rounds it served fewer requests a second than stable's version {stable.version} on "
            f"the same bench, by the factors {shown}; allowed is {spec.benchmark.max_slowdown:.2f}",
        )
    if accuracy is not None and accuracy < least:
        raise AccuracyTooLow(spec.name, step.release.version, accuracy, least, BENCH)


def _measured(step: Step, base: Manifest, tuning: configs.Tuning) -> list[Row]:
    """Bring the candidate back onto bench, with the chosen tuning, and measure it."""
    put_on(step, BENCH, base, configs.build_config(step.spec, base.version, tuning))
    return _measure(step, base)


def _measure(step: Step, base: Manifest) -> list[Row]:
    """Measure what bench serves now, with samples recorded for it."""
    asked = step.spec.benchmark
    seconds = asked.budget_s * _ROUND_SHARE / len(asked.concurrency)
    replica, recorded = step.pair.bench.replicas[0], recorded_samples(step, base)
    return measure(step.spec, replica, step.environment, recorded, asked.concurrency, seconds)


def _seal(step: Step, base: Manifest, result: BenchmarkResult, summary: dict[str, Any]) -> None:
    config = configs.build_config(step.spec, base.version, result.chosen)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CONFIG).write_text(configs.render(config, epoch=0))
        (folder / REPORT).write_text(json.dumps(result.to_dict(), indent=1))
        files = {
            file: step.archive.write(base.version, "tuned", file, folder / file, step.check)
            for file in (CONFIG, REPORT)
        }
    manifest = base.model_copy(
        update={
            "part": "tuned",
            "files": files,
            "tools": manifests.tool_versions(),
            "summary": summary,
            "release_digest": configs.release_digest(config),
            "run_id": step.release.run_id,
            "sealed_at": step.store.now(),
            "by": step.release.by,
        }
    )
    step.archive.seal(manifest, step.check)

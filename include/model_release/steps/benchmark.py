"""benchmark: on bench, where nobody is hurt: load, proof, accuracy, the best batching; sealed as `tuned`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.benchmark import BenchmarkResult, Row, measure, run_benchmark, slowdown
from model_release.environment import Environment, Replica
from model_release.errors import BenchBusy, BenchDied, BenchLost, ObjectiveNotMet, ReplicaUnavailable
from model_release.identity import Release
from model_release.ledger.turn import TurnLost, Turns, TurnTaken
from model_release.parity.accuracy import Right
from model_release.parity.report import AccuracyReport
from model_release.repository import manifest as manifests
from model_release.repository.manifest import Manifest
from model_release.repository.serving import CONFIG, folder_of_part
from model_release.spec import ModelSpec
from model_release.steps import bystanders, golden
from model_release.steps.before import watching_stable
from model_release.steps.context import Step, begin
from model_release.steps.recycle import remove
from model_release.steps.serve import load, put_on, recorded_samples, sealed_bundle, spec_of
from model_release.triton import config as configs
from model_release.triton.bundle import build_bundle
from model_release.triton.parity import prove_served
from model_release.triton.replica import ReplicaClient

BENCH = "bench"
#: Of how long a benchmark waits for the others'; theirs may each take their budget and some minutes.
BENCH_WAIT_S = 3600.0
REPORT = "benchmark.json"
#: The rounds in which a slowdown has to show, and the share of the budget that measuring one version in one may take.
_ROUNDS = 3
_ROUND_SHARE = 0.15

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Find the config that serves the version best, compare it with stable's, and seal it.

    Bench is one for all models of a pair: one benchmark has it at a time, and the others wait.

    Raises BenchBusy, BenchLost, LoadFailed, ProofFailed, BenchDied, ServedParityFailed, AccuracyTooLow,
    AccuracyNotProven, BenchmarkFailed, ObjectiveNotMet, and what `put_on` raises for a signature.
    """
    with begin(release, environment, "benchmark") as step, watching_stable(step):
        sealed = step.archive.sealed(release.version, "tuned")
        if sealed is not None:
            return {"already_sealed": True, **sealed.summary}
        base = step.archive.require(release.version)
        bystanders.note(step, deploys=False)
        with _turn_at_bench(step) as fenced, _bench_cleared(step):
            put_on(fenced, BENCH, base, sealed_bundle(step, release.version))
            served = {"untuned": _served_parity(step, base, sealed_bundle(step, release.version))}
            right = golden.right_on_bench(step, base.version, step.spec)
            accuracy = None if right is None else golden.report(step, right)
            result = _sweep(fenced, base)
            served["chosen"] = _parity_of_chosen(fenced, base, result)
            accuracy = _compare_with_stable(fenced, base, result, right) or accuracy
            fenced.check()  # what was measured while another was at it is not sealed
        summary = {"benchmark": result.summary(), "served_parity": served, **_shown(accuracy)}
        _seal(step, base, result, summary)
        step.event("benchmarked", **summary)
        return {"already_sealed": False, **summary}


@contextmanager
def _turn_at_bench(step: Step) -> Iterator[Step]:
    """Wait for bench, and return the step as it may write only while bench is its own. Raises BenchBusy, Superseded."""
    turns = Turns(step.store, step.spec.serving.fleet_pair, "benchmark")
    holder, told = f"{step.model} {step.release.holder}", set[str]()

    def waits(other: str) -> None:
        step.check()
        if other not in told:
            told.add(other)
            log.info("waiting for bench, which %s has", other)

    def fence() -> None:
        try:
            lease.check()
        except TurnLost as lost:
            raise BenchLost(step.model, step.release.version, str(lost)) from None

    try:
        with turns.lease(holder, step.environment.lease_s, BENCH_WAIT_S, waits) as lease:
            yield replace(step, fence=fence)
    except TurnTaken as taken:
        raise BenchBusy(step.model, str(taken), BENCH_WAIT_S) from None


@contextmanager
def _bench_cleared(step: Step) -> Iterator[None]:
    """
    Leave bench without the model, whatever happens.

    Raises BenchDied for a server that was up before and is not any more.
    """
    replica = step.pair.bench.replicas[0]
    was_up = _is_up(step, replica)
    try:
        yield
    except ReplicaUnavailable as error:
        if not was_up or _is_up(step, replica):
            raise
        raise BenchDied(replica.name, step.model, step.release.version, str(error)) from None
    finally:
        remove(step, BENCH)


def _is_up(step: Step, replica: Replica) -> bool:
    with ReplicaClient(replica, step.environment) as client:
        return client.live()


def _sweep(step: Step, base: Manifest) -> BenchmarkResult:
    def apply(tuning: configs.Tuning) -> None:
        load(step, BENCH, base, build_bundle(step.spec, base.version, tuning))

    replica = step.pair.bench.replicas[0]
    return run_benchmark(step.spec, replica, step.environment, recorded_samples(step, base), apply)


def _served_parity(step: Step, base: Manifest, config: Any) -> dict[str, Any]:
    """Compare what bench answers, alone and in batches, with the recorded answers."""
    tolerances = {tensor.name: step.spec.tolerance(tensor.name) for tensor in step.spec.outputs}
    replica, recorded = step.pair.bench.replicas[0], recorded_samples(step, base)
    return prove_served(replica, base.version, config, recorded, tolerances, step.environment).to_dict()


def _parity_of_chosen(step: Step, base: Manifest, result: BenchmarkResult) -> dict[str, Any]:
    """Bring the chosen tuning onto bench, if it is not what was measured last there, and prove its answers too."""
    config = build_bundle(step.spec, base.version, result.chosen)
    if result.rows[-1]["tuning"] != result.chosen.to_dict():
        load(step, BENCH, base, config)
    return _served_parity(step, base, config)


def _shown(accuracy: AccuracyReport | None) -> dict[str, Any]:
    """Return the accuracy as it fits into a message between tasks."""
    if accuracy is None:
        return {"accuracy": None}
    comparisons = [comparison.model_dump(mode="json") for comparison in accuracy.comparisons]
    return {"accuracy": accuracy.accuracy, "accuracy_comparisons": comparisons}


def _compare_with_stable(
    step: Step, base: Manifest, result: BenchmarkResult, right: Right | None
) -> AccuracyReport | None:
    """
    Hold the candidate's right answers and throughput against stable's version, on the same bench.

    Machines are noisy: a slowdown stops the release only if it shows in every one of some rounds, candidate and stable
    by turns. Returns the accuracy compared, or None where there is nothing to compare it with.
    """
    spec, stable = step.spec, step.claim.check().stable
    if stable is None:
        return None
    stable_base = step.archive.require(stable.version)
    stable_spec = spec_of(step, stable_base)
    accuracy: AccuracyReport | None = None
    ratios: list[float] = []
    while len(ratios) < _ROUNDS:
        own = result.rows_of_chosen() if not ratios else _measured(step, base, result.chosen)
        put_on(step, BENCH, stable_base, sealed_bundle(step, stable.version))
        if right is not None and accuracy is None:
            others = golden.right_on_bench(step, stable.version, stable_spec)
            accuracy = None if others is None else golden.report(step, right, (stable.version, others))
        ratio = slowdown(own, _measure(step, stable_base, stable_spec))
        if ratio is None or ratio <= spec.benchmark.max_slowdown:
            return accuracy
        ratios.append(ratio)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    raise ObjectiveNotMet(
        spec.name,
        f"in each of {_ROUNDS} rounds it served fewer requests a second than stable's version {stable.version} on "
        f"the same bench, by the factors {shown}; allowed is {spec.benchmark.max_slowdown:.2f}",
    )


def _measured(step: Step, base: Manifest, tuning: configs.Tuning) -> list[Row]:
    """Bring the candidate back onto bench, with the chosen tuning, and measure it."""
    put_on(step, BENCH, base, build_bundle(step.spec, base.version, tuning))
    return _measure(step, base, step.spec)


def _measure(step: Step, base: Manifest, served: ModelSpec) -> list[Row]:
    """Measure what bench serves now, a version of the spec `served`, with samples recorded for it."""
    asked = step.spec.benchmark
    seconds = asked.budget_s * _ROUND_SHARE / len(asked.concurrency)
    replica, recorded = step.pair.bench.replicas[0], recorded_samples(step, base)
    return measure(served, replica, step.environment, recorded, asked.concurrency, seconds)


def _seal(step: Step, base: Manifest, result: BenchmarkResult, summary: dict[str, Any]) -> None:
    bundle = build_bundle(step.spec, base.version, result.chosen)
    with TemporaryDirectory() as name:
        folder, written = Path(name), {REPORT: Path(name) / REPORT}
        for part, text in bundle.texts(epoch=0).items():
            written[folder_of_part(part) + CONFIG] = folder / f"{part}.{CONFIG}"
            written[folder_of_part(part) + CONFIG].write_text(text)
        (folder / REPORT).write_text(
            json.dumps({**result.to_dict(), "served_parity": summary["served_parity"]}, indent=1)
        )
        files = {
            file: step.archive.write(base.version, "tuned", file, path, step.check) for file, path in written.items()
        }
    manifest = base.model_copy(
        update={
            "part": "tuned",
            "files": files,
            "tools": manifests.tool_versions(),
            "summary": summary,
            "release_digest": bundle.digest,
            "run_id": step.release.run_id,
            "sealed_at": step.store.now(),
            "by": step.release.by,
        }
    )
    step.signatures.sign(manifest, step.check)
    step.archive.seal(manifest, step.check)

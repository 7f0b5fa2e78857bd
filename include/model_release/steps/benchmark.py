"""benchmark: on bench, where nobody is hurt: load, proof, accuracy, the best batching; sealed as `tuned`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.benchmark import BenchmarkResult, Comparison, Meter, Run, Target, candidates, compare, run_benchmark
from model_release.benchmark.memory import Fit, Watch, fit
from model_release.benchmark.versus import LEAST_TO_STOP
from model_release.environment import Environment, Replica
from model_release.errors import BenchBusy, BenchDied, BenchLost, DoesNotFit, ObjectiveNotMet, ReplicaUnavailable
from model_release.identity import Mode, Release
from model_release.ledger.turn import TurnLost, Turns, TurnTaken
from model_release.parity.accuracy import Right
from model_release.parity.report import AccuracyReport
from model_release.report.benchmark_page import write_benchmark_page
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
REPORT, PAGE = "benchmark.json", "benchmark.html"
#: The part of the search's budget that the comparison with stable's version may take.
_COMPARE_SHARE = 0.5
_LONGEST_RUN_S = 3.0

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Find the config that serves the version best, compare it with stable's, and seal it.

    Bench is one for all models of a pair: one benchmark has it at a time, and the others wait.

    Raises BenchBusy, BenchLost, LoadFailed, ProofFailed, BenchDied, ServedParityFailed, AccuracyTooLow,
    AccuracyNotProven, BenchmarkFailed, ObjectiveNotMet, DoesNotFit, and what `put_on` raises for a signature.
    """
    with begin(release, environment, "benchmark") as step, watching_stable(step):
        sealed = step.archive.sealed(release.version, "tuned")
        if sealed is not None:
            return {"already_sealed": True, **sealed.summary}
        base = step.archive.require(release.version)
        bystanders.note(step, deploys=False)
        with (
            _turn_at_bench(step) as fenced,
            _bench_cleared(step),
            Watch(step.pair.bench.replicas[0]) as memory,
        ):
            put_on(fenced, BENCH, base, sealed_bundle(step, release.version))
            served = {"untuned": _served_parity(step, base, sealed_bundle(step, release.version))}
            right = golden.right_on_bench(step, base.version, step.spec)
            accuracy = None if right is None else golden.report(step, right)
            result = _search(fenced, base)
            served["chosen"] = _served_parity(step, base, build_bundle(step.spec, base.version, result.chosen))
            room = _require_room(step, memory)
            compared, accuracy_compared = _compare_with_stable(fenced, base, result, right)
            fenced.check()  # what was measured while another was at it is not sealed
        found: dict[str, Any] = {
            "against_stable": None if compared is None else compared.to_dict(),
            "memory": {**room.to_dict(), "peak_bytes": memory.peak()},
        }
        summary = {"benchmark": {**result.summary(), **_in_short(found)}, "served_parity": served}
        summary |= _shown(accuracy_compared or accuracy)
        _seal(step, base, result, summary, found)
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


def _search(step: Step, base: Manifest) -> BenchmarkResult:
    """Find the best tuning; it is what bench serves afterwards."""

    def apply(tuning: configs.Tuning) -> None:
        load(step, BENCH, base, build_bundle(step.spec, base.version, tuning))

    target, own = _target(step, base, step.spec), configs.Tuning.from_spec(step.spec)
    return run_benchmark(target, step.spec.benchmark, candidates(step.spec), apply, serving=own)


def _target(step: Step, base: Manifest, served: ModelSpec) -> Target:
    """Return what bench is measured as: a version of the spec `served`, with the samples recorded for it."""
    replica, batching = step.pair.bench.replicas[0], served.serving.batching
    batched = next((part.name for part in served.model_parts.values() if part.serving.batching), None)
    return Target(step.model, replica, step.environment, recorded_samples(step, base), batching, batched)


def _served_parity(step: Step, base: Manifest, config: Any) -> dict[str, Any]:
    """Compare what bench answers, alone and in batches, with the recorded answers."""
    tolerances = {tensor.name: step.spec.tolerance(tensor.name) for tensor in step.spec.outputs}
    replica, recorded = step.pair.bench.replicas[0], recorded_samples(step, base)
    return prove_served(replica, base.version, config, recorded, tolerances, step.environment).to_dict()


def _require_room(step: Step, memory: Watch) -> Fit:
    """
    Hold what the version takes on bench against what is free on the replicas that it will be loaded on.

    They serve the version before meanwhile, and drop it after the load alone. Raises DoesNotFit.
    """
    found = fit(memory.held(), step.pair.fleet(step.running.fleet).replicas)
    if found.misfits:
        worst = found.misfits[0]
        raise DoesNotFit(step.model, step.release.version, worst["replica"], found.needed_bytes, worst["free_bytes"])
    return found


def _in_short(found: dict[str, Any]) -> dict[str, Any]:
    """Return what of the comparison and the memory fits into a message between tasks."""
    compared = found["against_stable"]
    slowdown = None if compared is None else {**compared["slowdown"], "rounds": compared["rounds"]}
    return {"slowdown": slowdown, "memory_bytes": found["memory"]["needed_bytes"]}


def _shown(accuracy: AccuracyReport | None) -> dict[str, Any]:
    """Return the accuracy as it fits into a message between tasks."""
    if accuracy is None:
        return {"accuracy": None}
    comparisons = [comparison.model_dump(mode="json") for comparison in accuracy.comparisons]
    return {"accuracy": accuracy.accuracy, "accuracy_comparisons": comparisons}


def _compare_with_stable(
    step: Step, base: Manifest, result: BenchmarkResult, right: Right | None
) -> tuple[Comparison | None, AccuracyReport | None]:
    """
    Hold the candidate's throughput and right answers against stable's version, on the same bench.

    The throughput is compared by turns at the load at which the tuning was chosen. Returns both comparisons, None where
    there is nothing to compare with. Raises ObjectiveNotMet when the candidate is shown to be too slow.
    """
    spec, stable = step.spec, step.claim.check().stable
    if stable is None or step.running.mode is Mode.EMERGENCY:
        return None, None
    stable_base = step.archive.require(stable.version)
    stable_spec = spec_of(step, stable_base)
    bench = _Turns(step, result.best["concurrency"], serving=base.version)
    reports: list[AccuracyReport] = []

    def note_accuracy() -> None:
        others = golden.right_on_bench(step, stable.version, stable_spec) if right is not None else None
        if right is not None and others is not None:
            reports.append(golden.report(step, right, (stable.version, others)))

    tuned = build_bundle(spec, base.version, result.chosen)
    sealed = sealed_bundle(step, stable.version)
    with Meter(_target(step, base, spec)) as own, Meter(_target(step, stable_base, stable_spec)) as others:
        compared = compare(
            bench.concurrency,
            spec.benchmark.max_slowdown,
            lambda: bench.measure(base, tuned, own),
            lambda: bench.measure(stable_base, sealed, others, note_accuracy),
            bench.in_time,
        )
    if compared.is_slower(spec.benchmark.max_slowdown):
        raise ObjectiveNotMet(
            spec.name,
            f"it served fewer requests a second than stable's version {stable.version} on the same bench, by the "
            f"factor {compared.slowdown}, by turns in {len(compared.stable)} rounds at concurrency "
            f"{compared.concurrency}; allowed is {spec.benchmark.max_slowdown:.2f}",
        )
    return compared, reports[0] if reports else None


class _Turns:
    """Brings two versions onto bench by turns, and measures each there."""

    def __init__(self, step: Step, concurrency: int, serving: int) -> None:
        self._step, self.concurrency, self._serving = step, concurrency, serving
        self._budget_s = step.spec.benchmark.budget_s * _COMPARE_SHARE
        self._began, self._seen = time.monotonic(), {serving}

    def measure(self, base: Manifest, config: Any, meter: Meter, at_first: Callable[[], None] | None = None) -> Run:
        if base.version != self._serving:
            put_on(self._step, BENCH, base, config)
            self._serving = base.version
        if base.version not in self._seen:
            self._seen.add(base.version)
            if at_first is not None:
                at_first()
        seconds = min(_LONGEST_RUN_S, self._budget_s / (2 * LEAST_TO_STOP))
        return meter.run(self.concurrency, max(seconds, meter.least_run_s()))

    def in_time(self) -> bool:
        return time.monotonic() - self._began < self._budget_s


def _seal(step: Step, base: Manifest, result: BenchmarkResult, summary: dict[str, Any], found: dict[str, Any]) -> None:
    bundle = build_bundle(step.spec, base.version, result.chosen)
    with TemporaryDirectory() as name:
        folder = Path(name)
        written = {REPORT: folder / REPORT, PAGE: folder / PAGE}
        for part, text in bundle.texts(epoch=0).items():
            written[folder_of_part(part) + CONFIG] = folder / f"{part}.{CONFIG}"
            written[folder_of_part(part) + CONFIG].write_text(text)
        report = {**result.to_dict(), **found, "served_parity": summary["served_parity"]}
        (folder / REPORT).write_text(json.dumps(report, indent=1))
        write_benchmark_page(report, folder / PAGE)
        files = {
            file: step.archive.write(base.version, "tuned", file, path, step.check) for file, path in written.items()
        }
    manifest = base.model_copy(
        update={
            "schema_version": Manifest.model_fields["schema_version"].default,
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

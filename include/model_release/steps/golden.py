"""The golden set on bench: what the version that is served there answers rightly, held against stable's version."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_release.errors import StableUnusable
from model_release.parity import accuracy as scores
from model_release.parity import load_samples
from model_release.parity.accuracy import Right
from model_release.parity.files import LABEL
from model_release.parity.report import AccuracyReport
from model_release.spec import ModelSpec
from model_release.steps.context import Step
from model_release.triton.replica import ReplicaClient

_BATCH = 32
_SECTION = "accuracy"


def right_on_bench(step: Step, version: int, served: ModelSpec) -> Right | None:
    """
    Return which samples of the golden set the version on bench answers rightly, or None without a golden set.

    `served` is the version's own spec: it says how the version is batched, and which of its outputs names the class.
    Raises SamplesUnusable, StableUnusable where a version of another spec lacks an input, and what an inference raises.
    """
    spec = step.spec
    if spec.accuracy is None:
        return None
    golden = load_samples(spec.accuracy.golden_set, spec, step.environment, with_label=True)
    absent = [tensor.name for tensor in served.inputs if tensor.name not in golden]
    if absent:
        raise StableUnusable(spec.name, version, _SECTION, f"its inputs {absent} are not among the samples")
    return scores.right_answers(spec, _answers(step, served, golden), golden[LABEL])


def report(step: Step, right: Right, stable: tuple[int, Right] | None = None) -> AccuracyReport:
    """
    Return the accuracy of the new version, compared sample by sample with stable's (its version, its right answers).

    Raises AccuracyTooLow, or AccuracyNotProven when the golden set does not show it to be as good as stable.
    """
    others = {} if stable is None else {f"stable's version {stable[0]}": stable[1]}
    found = scores.report_of(step.spec, right, others)
    for failure in scores.failures_of(step.spec.name, step.release.version, found, "bench"):
        raise failure
    return found


def _answers(step: Step, served: ModelSpec, golden: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return [n, ...] answers of the output that names the class, of the version that bench serves."""
    asked = served.accuracy.output if served.accuracy else None
    wanted = asked or scores.output_of(step.spec)
    output = wanted if wanted in {tensor.name for tensor in served.outputs} else served.outputs[0].name
    batching = served.serving.batching
    size = min(_BATCH, served.serving.max_batch_size) or 1
    parts = []
    with ReplicaClient(step.pair.bench.replicas[0], step.environment) as client:
        for start in range(0, len(golden[LABEL]), size):
            batch = {tensor.name: golden[tensor.name][start : start + size] for tensor in served.inputs}
            parts.append(client.infer(step.release.model, batch, batching=batching)[output])
    return np.concatenate(parts)

"""The version that has the traffic, which a new one is held against: accuracy and the space of its vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from model_release.errors import OnnxUnusable, StableUnusable
from model_release.parity import accuracy as scores
from model_release.parity import embedding as spaces
from model_release.parity import samples as sets
from model_release.parity.candidate import Candidate
from model_release.parity.files import LABEL
from model_release.parity.report import PYTORCH, AccuracyReport, EmbeddingReport
from model_release.parity.samples import Arrays
from model_release.spec import Embedding, ModelSpec

Ask = Callable[[Arrays, str], Arrays]
_BATCH = 32


@dataclass(frozen=True)
class StableVersion:
    """The sealed version that is stable: its own spec and ONNX file."""

    version: int
    spec: ModelSpec
    onnx_path: Path

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"stable's version {self.version}"

    def answers(self, inputs: Arrays, output: str | None, what: str) -> npt.NDArray[Any]:
        """
        Return stable's answers to inputs by name, batch first: of that output, or without such a one its first.

        Inputs that stable does not have are left out. Raises StableUnusable when it lacks one, or does not run.
        """
        absent = [tensor.name for tensor in self.spec.inputs if tensor.name not in inputs]
        if absent:
            raise StableUnusable(self.spec.name, self.version, what, f"its inputs {absent} are not among the samples")
        own = {tensor.name: inputs[tensor.name] for tensor in self.spec.inputs}
        names = [tensor.name for tensor in self.spec.outputs]
        try:
            return in_batches(self.spec, Candidate(self.spec, self.onnx_path), own, what)[
                output if output in names else names[0]
            ]
        except OnnxUnusable as error:
            raise StableUnusable(self.spec.name, self.version, what, str(error)) from error


def in_batches(spec: ModelSpec, ask: Ask, inputs: Arrays, what: str) -> Arrays:
    """Return the answers to many samples, asked for in batches; each alone where batching is switched off."""
    size = min(_BATCH, spec.serving.max_batch_size) or 1
    parts = [
        ask({name: array[start : start + size] for name, array in inputs.items()}, what)
        for start in range(0, sets.count_of(inputs), size)
    ]
    return sets.joined(parts)


def measure_accuracy(
    spec: ModelSpec, reference: Ask, candidate: Ask, golden: Arrays, stable: StableVersion | None
) -> AccuracyReport:
    """
    Return the accuracy on a golden set (inputs and `label`), compared with PyTorch's and with stable's.

    Raises SamplesUnusable, OnnxUnusable, StableUnusable.
    """
    label, inputs = golden[LABEL], {name: array for name, array in golden.items() if name != LABEL}
    output, what = scores.output_of(spec), "the golden set"
    this = scores.right_answers(spec, in_batches(spec, candidate, inputs, what)[output], label)
    others = {PYTORCH: scores.right_answers(spec, in_batches(spec, reference, inputs, what)[output], label)}
    if stable is not None:
        wanted = stable.spec.accuracy.output if stable.spec.accuracy else None
        others[stable.title] = scores.right_answers(spec, stable.answers(inputs, wanted or output, "accuracy"), label)
    return scores.report_of(spec, this, others)


def measure_space(
    spec: ModelSpec, asked: Embedding, candidate: Ask, samples: Arrays | None, stable: StableVersion
) -> EmbeddingReport:
    """
    Return how far the vectors moved from stable's, on the user's samples or else on generated ones.

    Raises OnnxUnusable, StableUnusable.
    """
    output = asked.output or spec.outputs[0].name
    inputs = sets.generate(spec, spaces.GENERATED, spec.parity.seed, sets.middle_axes(spec))
    if samples:
        inputs = {name: array[: spaces.MOST_SAMPLES] for name, array in samples.items()}
    this = in_batches(spec, candidate, inputs, "the samples")[output]
    wanted = stable.spec.embedding.output if stable.spec.embedding else None
    other = stable.answers(inputs, wanted or output, "embedding")
    return spaces.compare_spaces(asked, output, this, other, against=stable.title, generated=not samples)

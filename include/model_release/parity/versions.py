"""The ONNX file against labels, and against stable's version: accuracy, and the space of its vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from model_release.errors import OnnxUnusable, ReleaseError, StableUnusable
from model_release.parity import accuracy as scores
from model_release.parity import embedding as spaces
from model_release.parity import samples as sets
from model_release.parity.files import LABEL
from model_release.parity.report import PYTORCH, AccuracyReport, EmbeddingReport
from model_release.parity.samples import Arrays
from model_release.parity.stable import Ask, OpenStable, StableVersion, in_batches
from model_release.spec import Embedding, ModelSpec

_ACCURACY, _EMBEDDING = "accuracy", "embedding"


class VersionsCompared:
    """
    What the comparison of versions found.

    First the new version is asked, then stable's: so the caller can close the one before the other is opened, and the
    weights of both are never in memory together.
    """

    def __init__(self, spec: ModelSpec, version: int | None, progress: Callable[[str], None]) -> None:
        self._spec, self._version, self._progress = spec, version, progress
        self._golden: Arrays = {}
        self._right: dict[str, scores.Right] = {}
        self._asked: tuple[Embedding, str, Arrays, npt.NDArray[Any], bool] | None = None
        self._where = ""
        self.errors: list[ReleaseError] = []
        self.accuracy: AccuracyReport | None = None
        self.embedding: EmbeddingReport | None = None

    def ask_golden(self, reference: Ask, candidate: Ask, where: str, golden: Arrays) -> None:
        """Let PyTorch and the ONNX file, on the provider `where`, answer a golden set. Raises SamplesUnusable."""
        self._progress(f"answering {sets.count_of(golden)} golden samples")
        self._where, self._golden = where, golden
        inputs = {tensor.name: golden[tensor.name] for tensor in self._spec.inputs}
        output, what = scores.output_of(self._spec), "the golden set"
        try:
            for name, ask in ((where, candidate), (PYTORCH, reference)):
                answers = in_batches(self._spec, ask, inputs, what)[output]
                self._right[name] = scores.right_answers(self._spec, answers, golden[LABEL])
        except OnnxUnusable as error:
            self.errors.append(error)

    def ask_vectors(self, asked: Embedding, candidate: Ask, samples: Arrays | None) -> None:
        """Let the ONNX file embed the user's samples, or else generated ones."""
        self._progress("embedding samples")
        spec, output = self._spec, asked.output or self._spec.outputs[0].name
        if samples:
            inputs = {name: array[: spaces.MOST_SAMPLES] for name, array in samples.items()}
        else:
            inputs = sets.generate(spec, spaces.GENERATED, spec.parity.seed, sets.middle_axes(spec))
        try:
            vectors = in_batches(spec, candidate, inputs, "the samples")[output]
            self._asked = asked, output, inputs, vectors, not samples
        except OnnxUnusable as error:
            self.errors.append(error)

    def ask_stable(self, stable: StableVersion) -> None:
        """Let stable's version answer the same, and compare."""
        what = _ACCURACY if self._right else _EMBEDDING
        if not self._right and self._asked is None:
            return
        self._progress(f"asking {stable.title} the same")
        try:
            opened = OpenStable(stable, what)
        except StableUnusable as error:
            self.errors.append(error)
            return
        for compare in (self._compare_right, self._compare_space):
            try:
                compare(stable, opened)
            except StableUnusable as error:
                self.errors.append(error)

    def _compare_right(self, stable: StableVersion, opened: OpenStable) -> None:
        if not self._right:
            return
        own = stable.spec.accuracy.output if stable.spec.accuracy else None
        answers = opened(self._golden, own or scores.output_of(self._spec), _ACCURACY)
        self._right[stable.title] = scores.right_answers(self._spec, answers, self._golden[LABEL])

    def _compare_space(self, stable: StableVersion, opened: OpenStable) -> None:
        if self._asked is None:
            return
        asked, output, inputs, vectors, generated = self._asked
        own = stable.spec.embedding.output if stable.spec.embedding else None
        other = opened(inputs, own or output, _EMBEDDING)
        self.embedding = spaces.compare_spaces(asked, output, vectors, other, against=stable.title, generated=generated)

    def judge(self) -> None:
        """Make the reports of what was answered, and note why it is not enough."""
        model = self._spec.name
        if self._where in self._right and PYTORCH in self._right:
            others = {name: right for name, right in self._right.items() if name != self._where}
            self.accuracy = scores.report_of(self._spec, self._right[self._where], others)
            self.errors += scores.failures_of(model, self._version, self.accuracy, self._where)
        moved = spaces.failure_of(model, self.embedding) if self.embedding else None
        self.errors += [moved] if moved else []

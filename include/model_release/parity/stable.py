"""The version that has the traffic, which a new one is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from model_release.errors import OnnxUnusable, StableUnusable
from model_release.parity import samples as sets
from model_release.parity.providers import open_candidate
from model_release.parity.samples import Arrays
from model_release.spec import ModelSpec

Ask = Callable[[Arrays, str], Arrays]
_BATCH = 32


@dataclass(frozen=True)
class StableVersion:
    """The sealed version that is stable: its own spec, and the file that was proved of it."""

    version: int
    spec: ModelSpec
    onnx_path: Path

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"stable's version {self.version}"


class OpenStable:
    """
    Stable's file, opened on CPU.

    `what` is the section of the model config that it is opened for. Raises StableUnusable when it does not open.
    """

    def __init__(self, stable: StableVersion, what: str) -> None:
        self._stable = stable
        try:
            self._candidate = open_candidate(stable.spec, stable.onnx_path)
        except OnnxUnusable as error:
            raise StableUnusable(stable.spec.name, stable.version, what, str(error)) from error

    def __call__(self, inputs: Arrays, output: str, what: str) -> npt.NDArray[Any]:
        """
        Return its answers to inputs by name, batch first: the output of that name, or else its first.

        Inputs that stable does not have are left out. Raises StableUnusable when it lacks one, or does not run.
        """
        spec, version = self._stable.spec, self._stable.version
        absent = [tensor.name for tensor in spec.inputs if tensor.name not in inputs]
        if absent:
            raise StableUnusable(spec.name, version, what, f"its inputs {absent} are not among the samples")
        own = {tensor.name: inputs[tensor.name] for tensor in spec.inputs}
        try:
            answers = in_batches(spec, self._candidate, own, what)
        except OnnxUnusable as error:
            raise StableUnusable(spec.name, version, what, str(error)) from error
        return answers[output if output in answers else spec.outputs[0].name]


def in_batches(spec: ModelSpec, ask: Ask, inputs: Arrays, what: str) -> Arrays:
    """Return the answers to many samples, asked for in batches; each alone where batching is switched off."""
    size = min(_BATCH, spec.serving.max_batch_size) or 1
    parts = [
        ask({name: array[start : start + size] for name, array in inputs.items()}, what)
        for start in range(0, sets.count_of(inputs), size)
    ]
    return sets.joined(parts)

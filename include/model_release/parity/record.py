"""Samples with PyTorch's own answers, which every replica must repeat later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model_release.parity import samples as sets
from model_release.parity.chain import Ask
from model_release.parity.reference import Reference
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, npt.NDArray[Any]]
MOST_RECORDED = 32
_SEED = 11


def record(spec: ModelSpec, module: nn.Module, samples: Arrays | None) -> Arrays:
    """
    Return up to 32 samples, `input__<name>`, and the answers of eager PyTorch, `output__<name>`, batch axis first.

    The user's samples where there are any, else random ones within the ranges. Raises ModelRefusesInputs.
    """
    return record_answers(spec, Reference(spec, module), inputs_to_record(spec, samples))


def inputs_to_record(spec: ModelSpec, samples: Arrays | None) -> Arrays:
    """Return up to 32 samples: the user's where there are any, else random ones within the ranges."""
    if samples:
        return {name: array[:MOST_RECORDED] for name, array in samples.items()}
    return sets.generate(spec, MOST_RECORDED, _SEED, sets.middle_axes(spec))


def record_answers(spec: ModelSpec, reference: Ask, inputs: Arrays) -> Arrays:
    """Return the samples `input__<name>`, and the answers to them, `output__<name>`. Raises ModelRefusesInputs."""
    count = sets.count_of(inputs)
    # Without batching a request is run by itself, and each sample is asked for alone.
    most = spec.serving.max_batch_size or 1
    parts = [
        reference({name: array[start : start + most] for name, array in inputs.items()}, "the recorded samples")
        for start in range(0, count, most)
    ]
    answers = {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in spec.outputs}
    return {
        **{f"input__{tensor.name}": np.ascontiguousarray(inputs[tensor.name]) for tensor in spec.inputs},
        **{f"output__{name}": np.ascontiguousarray(answer) for name, answer in answers.items()},
    }

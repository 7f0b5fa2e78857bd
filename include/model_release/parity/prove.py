"""The proof of parity: eager PyTorch against ONNX Runtime, over batch sizes, samples, random values and edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model_release.errors import BatchDependent, OnnxUnusable, ParityFailed
from model_release.parity import samples as sets
from model_release.parity.candidate import Candidate, import_onnxruntime, opset_of
from model_release.parity.compare import Difference, compare
from model_release.parity.reference import Reference
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, npt.NDArray[Any]]
#: Real samples that each batch size sees at least (if there are as many).
_SAMPLES = 32
#: Samples whose answers alone and among the others are compared.
_NEIGHBOURS = 8
_SEED = 7


@dataclass(frozen=True)
class Row:
    """What was found for one output at one batch size."""

    output: str
    batch_size: int
    worst_abs: float
    worst_rel: float
    differing: int
    elements: int


@dataclass(frozen=True)
class ParityReport:
    """The evidence of one proof that held."""

    model: str
    rows: tuple[Row, ...]
    batch_independence: tuple[Row, ...]
    real_samples: int
    seeds: tuple[int, ...]
    opset: int
    providers: tuple[str, ...]
    torch_version: str
    onnxruntime_version: str

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        lists = {name: [asdict(row) for row in getattr(self, name)] for name in ("rows", "batch_independence")}
        plain = {"seeds": list(self.seeds), "providers": list(self.providers)}
        return {**self.__dict__, **lists, **plain}


@dataclass(frozen=True)
class _Case:
    """Inputs of one comparison, and their name for people."""

    what: str
    inputs: Arrays


def prove(spec: ModelSpec, module: nn.Module, onnx_path: Path, samples: Arrays | None) -> ParityReport:
    """
    Compare the answers of an ONNX file with those of the PyTorch module, which must be in eval mode.

    Every batch size of the spec sees the user's samples, random values and the edges of the ranges; the smallest one
    also the ends of the dynamic axes. Then each sample alone must get the answer that it gets among others.
    Raises ParityFailed (OnnxUnusable, BatchDependent), ModelRefusesInputs.
    """
    onnxruntime = import_onnxruntime()
    import torch

    reference, candidate = Reference(spec, module), Candidate(spec, onnx_path)
    sizes = spec.batch_sizes
    rows = [row for size in sizes for row in _rows(spec, reference, candidate, size, samples)]
    independence = _independence(spec, candidate, samples)
    return ParityReport(
        model=spec.name,
        rows=tuple(rows),
        batch_independence=tuple(independence),
        real_samples=len(next(iter(samples.values()))) if samples else 0,
        seeds=tuple(_SEED + size for size in sizes),
        opset=opset_of(onnx_path),
        providers=tuple(candidate.providers),
        torch_version=str(torch.__version__),
        onnxruntime_version=str(onnxruntime.__version__),
    )


def _cases(spec: ModelSpec, size: int, samples: Arrays | None) -> Iterator[_Case]:
    """Yield the inputs of one batch size."""
    if samples:
        real = min(_SAMPLES, len(next(iter(samples.values()))))
        for start in range(0, max(real, 1), size):
            yield _Case(f"the samples from {start} on", sets.cycled(samples, size, start))
    middle = sets.middle_axes(spec)
    yield _Case("random values", sets.generate(spec, size, _SEED + size, middle))
    edges = sets.edges(spec, middle)
    for start in range(0, len(next(iter(edges.values()))), size):
        yield _Case("zeros, ones, lowest and highest values", sets.cycled(edges, size, start))
    if size == spec.batch_sizes[0] and spec.dynamic_axes:
        for end in ("min", "max"):
            axes = {name: int(getattr(axis, end)) for name, axis in spec.dynamic_axes.items()}
            yield _Case(f"the {end} of every dynamic axis", sets.generate(spec, size, _SEED + size, axes))


def _rows(
    spec: ModelSpec, reference: Reference, candidate: Candidate, size: int, samples: Arrays | None
) -> Iterator[Row]:
    """Compare at one batch size and yield a row for each output. Raises ParityFailed."""
    found: dict[str, list[Difference]] = {tensor.name: [] for tensor in spec.outputs}
    for case in _cases(spec, size, samples):
        what = f"{case.what} (batch size {size})"
        expected, answers = reference(case.inputs, what), candidate(case.inputs, what)
        for name, differences in found.items():
            differences.append(_difference(spec, name, answers[name], expected[name], what))
    for name, differences in found.items():
        total = reduce(or_, differences)
        if total.differing:
            differing = f"{total.differing} of {total.elements} elements beyond the tolerance"
            raise ParityFailed(spec.name, name, size, total.worst_abs, str(spec.tolerance(name)), differing)
        yield Row(name, size, **asdict(total))


def _difference(
    spec: ModelSpec, name: str, answer: npt.NDArray[Any], expected: npt.NDArray[Any], what: str
) -> Difference:
    for attribute in ("dtype", "shape"):
        got, wanted = getattr(answer, attribute), getattr(expected, attribute)
        if got != wanted:
            why = f"output {name!r} has the {attribute} {got} for {what}, PyTorch's has {wanted}"
            raise OnnxUnusable(spec.name, why)
    return compare(answer, expected, spec.tolerance(name))


def _independence(spec: ModelSpec, candidate: Candidate, samples: Arrays | None) -> Iterator[Row]:
    """Compare each sample's answer alone with its answer among very different neighbours. Raises BatchDependent."""
    size = min(_NEIGHBOURS, spec.serving.max_batch_size)
    if size < 2:
        return
    axes = sets.middle_axes(spec)
    if samples:
        axes |= {
            axis: real
            for tensor in spec.inputs
            for axis, real in zip(tensor.shape, samples[tensor.name].shape[1:], strict=True)
            if isinstance(axis, str)
        }
    parts = [sets.generate(spec, size, _SEED, axes), sets.edges(spec, axes), *([samples] if samples else [])]
    # The i-th sample comes from the i-th part in turn, so that neighbours differ as much as they can.
    turns = [sets.cycled(parts[place % len(parts)], 1, place) for place in range(size)]
    batch = {tensor.name: np.concatenate([turn[tensor.name] for turn in turns]) for tensor in spec.inputs}
    together = candidate(batch, f"{size} different samples")
    alone = [candidate(turn, "one sample") for turn in turns]
    for tensor in spec.outputs:
        name = tensor.name
        if len(together[name]) != size or any(answer[name].shape[1:] != together[name].shape[1:] for answer in alone):
            shapes = [list(answer[name].shape) for answer in (together, alone[0])]
            raise OnnxUnusable(spec.name, f"output {name!r} has the shapes {shapes} for {size} samples and for one")
        found = compare(together[name], np.concatenate([answer[name] for answer in alone]), spec.tolerance(name))
        if found.differing:
            raise BatchDependent(spec.name, name, size, found.worst_abs, str(spec.tolerance(name)))
        yield Row(name, size, **asdict(found))

"""Every output of the ONNX file against PyTorch's, over all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model_release.errors import Failed, NotFinite, OnnxUnusable, OutputMisdeclared, ParityFailed
from model_release.parity.cases import Case
from model_release.parity.report import OutputParity
from model_release.parity.samples import Arrays, is_of, same_type
from model_release.parity.tally import Tally
from model_release.spec import ModelSpec, Tensor

if TYPE_CHECKING:
    from model_release.parity.providers import Opened

Ask = Callable[[Arrays, str], Arrays]
Array = npt.NDArray[Any]


class OutputsCompared:
    """What the comparison of all outputs found; `errors` in the order of their importance."""

    def __init__(self, spec: ModelSpec, candidates: Sequence[Opened]) -> None:
        self._spec, self._candidates = spec, candidates
        self.cases: list[str] = []
        self._tallies = {
            (candidate.provider, tensor.name): Tally(tensor, candidate.provider, spec.tolerance(tensor.name))
            for candidate in candidates
            for tensor in spec.outputs
        }
        self._unusable: dict[tuple[str, str], OnnxUnusable] = {}
        self._misdeclared: dict[str, OutputMisdeclared] = {}

    def run(self, reference: Ask, cases: Iterable[Case], progress: Callable[[str], None]) -> None:
        """
        Compare every case; one case and its answers are in memory at a time.

        Raises ModelRefusesInputs, and OnnxUnusable when no answer could be compared at all.
        """
        compared = 0
        for case in cases:
            progress(case.name)
            self.cases.append(case.details or case.name)
            expected = reference(case.inputs, case.name)
            self._hold_to_spec(case, expected)
            for candidate in self._candidates:
                compared += self._compare(candidate, case, expected)
        if not compared and self._unusable and not self._misdeclared:
            raise next(iter(self._unusable.values()))

    def _compare(self, candidate: Opened, case: Case, expected: Arrays) -> int:
        """Return how many outputs could be compared."""
        try:
            answers = candidate(case.inputs, case.name)
        except OnnxUnusable as error:
            self._unusable.setdefault((candidate.provider, ""), error)
            return 0
        compared = 0
        for tensor in self._spec.outputs:
            answer, wanted = answers[tensor.name], expected[tensor.name]
            if answer.shape == wanted.shape and same_type(answer, wanted):
                self._tallies[candidate.provider, tensor.name].add(case, answer, wanted)
                compared += 1
                continue
            got, reference = (f"{array.dtype} {list(array.shape)}" for array in (answer, wanted))
            why = f"output {tensor.name!r} is {got} for {case.name}, PyTorch's is {reference}"
            self._unusable.setdefault((candidate.provider, tensor.name), OnnxUnusable(self._spec.name, why))
        return compared

    def _hold_to_spec(self, case: Case, expected: Arrays) -> None:
        """Note each output that is not as the spec declares it to clients."""
        sizes = _sizes(self._spec, case)
        for tensor in self._spec.outputs:
            got = expected[tensor.name]
            if tensor.name not in self._misdeclared and not _as_declared(tensor, got, case.size, sizes):
                declared = f"{tensor.dtype} {_shape(['batch', *tensor.shape])}"
                self._misdeclared[tensor.name] = OutputMisdeclared(
                    self._spec.name, tensor.name, case.name, f"{got.dtype} {list(got.shape)}", declared
                )

    @property
    def errors(self) -> list[Failed]:
        """Return why the outputs are not proved, the most important first."""
        tallies = list(self._tallies.values())
        return [
            *self._misdeclared.values(),
            *self._unusable.values(),
            *(error for error in map(self._not_finite, tallies) if error is not None),
            *(error for error in map(self._beyond, tallies) if error is not None),
        ]

    def _not_finite(self, tally: Tally) -> NotFinite | None:
        found, first = tally.result(), tally.first_non_finite
        if first is None:
            return None
        elements = f"{found.histogram.non_finite} of {found.elements} elements{_on(tally.provider)}"
        where = f"{first.case} at batch size {first.batch_size}"
        return NotFinite(self._spec.name, found.output, elements, where, first.answer_text, first.reference_text)

    def _beyond(self, tally: Tally) -> ParityFailed | None:
        found = tally.result()
        differing = found.differing - found.histogram.non_finite
        if not differing:
            return None
        worst = next((worst for worst in found.worst_cases if worst.abs_error is not None), None)
        case = f", worst for {worst.case}" if worst else ""
        return ParityFailed(
            self._spec.name,
            found.output,
            worst.batch_size if worst else found.by_batch_size[0].batch_size,
            worst.abs_error if worst and worst.abs_error is not None else found.max_abs,
            str(tally.tolerance),
            f"{differing} of {found.elements} elements beyond the tolerance{_on(tally.provider)}{case}",
        )

    def results(self) -> list[OutputParity]:
        """Return what was found for each output, by each provider."""
        return [tally.result() for tally in self._tallies.values()]

    def write_worst(self, path: Path) -> bool:
        """Write each output's worst sample as .npz (see ParityReport); returns whether there was any."""
        arrays: Arrays = {}
        for tensor in self._spec.outputs:
            samples = [
                tally.sample for (_, name), tally in self._tallies.items() if name == tensor.name and tally.sample
            ]
            if samples:
                worst = max(samples, key=lambda sample: sample.score)
                arrays |= {f"{tensor.name}.input.{name}": array for name, array in worst.inputs.items()}
                arrays |= {f"{tensor.name}.reference": worst.reference, f"{tensor.name}.answer": worst.answer}
        if arrays:
            with path.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        return bool(arrays)


def _sizes(spec: ModelSpec, case: Case) -> dict[str, int]:
    """Return the sizes that the dynamic axes have in a case."""
    return {
        axis: size
        for tensor in spec.inputs
        for axis, size in zip(tensor.shape, case.inputs[tensor.name].shape[1:], strict=True)
        if isinstance(axis, str)
    }


def _as_declared(tensor: Tensor, got: Array, batch_size: int, sizes: dict[str, int]) -> bool:
    """An axis that no input names may have any size."""
    wanted = [batch_size, *(sizes.get(axis) if isinstance(axis, str) else axis for axis in tensor.shape)]
    fits = len(wanted) == got.ndim and all(size in (None, real) for size, real in zip(wanted, got.shape, strict=True))
    return fits and is_of(tensor, got)


def _shape(axes: list[Any]) -> str:
    return f"[{', '.join(str(axis) for axis in axes)}]"


def _on(provider: str) -> str:
    return "" if provider == "cpu" else f" on {provider}"

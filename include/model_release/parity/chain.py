"""An ensemble as one model: its parts, asked one after the other as Triton asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from model_release.errors import ModelRefusesInputs, OnnxUnusable
from model_release.parity.candidate import CPU
from model_release.parity.samples import Arrays
from model_release.spec import ModelSpec, ordered

Ask = Callable[[Arrays, str], Arrays]


class Chain:
    """
    Answers of a whole ensemble; `asks` has a model for each part, arrays in and out by the part's own names.

    It is a candidate of the proof as an ONNX file is: `provider` says where its parts run.
    """

    provider = CPU

    def __init__(self, spec: ModelSpec, asks: Mapping[str, Ask], *, is_candidate: bool) -> None:
        self._spec, self._asks, self._is_candidate = spec, asks, is_candidate
        self._steps = ordered(spec.serving.ensemble) if spec.serving.ensemble else []

    def __call__(self, inputs: Arrays, what: str = "its inputs") -> Arrays:
        """
        Return the outputs by name for inputs by name, batch first.

        Raises ModelRefusesInputs, naming `what` was put in, when a part fails; of a candidate OnnxUnusable.
        """
        there = dict(inputs)
        for step in self._steps:
            try:
                answers = self._asks[step.part]({name: there[tensor] for name, tensor in step.inputs.items()}, what)
            except ModelRefusesInputs as error:
                if self._is_candidate:
                    raise OnnxUnusable(self._spec.name, f"part {step.part!r} fails on {what} ({error})") from error
                raise
            there |= {tensor: answers[name] for name, tensor in step.outputs.items()}
        return {tensor.name: there[tensor.name] for tensor in self._spec.outputs}

"""The TorchScript file as Triton's pytorch backend runs it: with its parameters, in the mode that it was saved in."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from model_release.errors import ExportFailed, ProviderMissing, TorchScriptUnusable
from model_release.parity.candidate import CPU, CUDA, Arrays
from model_release.parity.onnxfile import sha256_of
from model_release.parity.reference import argument_names
from model_release.parity.report import OnnxFile
from model_release.spec import ModelSpec

_TRUE = ("1", "true")


class TorchScriptCandidate:
    """
    An opened TorchScript file.

    Opening it runs its code, so it happens in a child process alone. Raises ProviderMissing when the device is not
    here, TorchScriptUnusable when the file does not open or its forward takes other inputs than the spec has.
    """

    def __init__(self, spec: ModelSpec, path: Path, provider: str = CPU) -> None:
        import torch

        self._spec, self.provider = spec, provider
        if provider not in (CPU, CUDA) or (provider == CUDA and not torch.cuda.is_available()):
            raise ProviderMissing(spec.name, provider, [CPU], "TorchScript runs on the CPU, or on torch's GPU")
        parameters = spec.serving.parameters
        self._inference_mode = parameters.get("INFERENCE_MODE", "1").lower() in _TRUE
        self._optimized = parameters.get("DISABLE_OPTIMIZED_EXECUTION", "0").lower() not in _TRUE
        try:
            with warnings.catch_warnings(), torch.inference_mode(self._inference_mode):
                warnings.simplefilter("ignore")
                self._module = torch.jit.load(os.fspath(path), map_location=provider)
        except Exception as error:
            raise TorchScriptUnusable(spec.name, f"torch does not open it ({_one_line(error)})") from error
        try:
            self._names = argument_names(spec, self._module)
        except ExportFailed as error:
            raise TorchScriptUnusable(spec.name, str(error)) from error

    def __call__(self, inputs: Arrays, what: str) -> Arrays:
        """
        Return the outputs by name for inputs by name, batch first.

        Raises TorchScriptUnusable, naming `what` was put in, when it fails, or answers with something else than one
        tensor for each output, in their order.
        """
        import torch

        spec = self._spec
        tensors = [torch.from_numpy(np.array(inputs[tensor.name])).to(self.provider) for tensor in spec.inputs]
        named = dict(zip(self._names or [], tensors, strict=bool(self._names)))
        try:
            with torch.inference_mode(self._inference_mode), torch.jit.optimized_execution(self._optimized):
                answer = self._module(**named) if named else self._module(*tensors)
        except Exception as error:
            raise TorchScriptUnusable(spec.name, f"it fails on {what} ({_one_line(error)})") from error
        found = list(answer) if isinstance(answer, tuple | list) else [answer]
        if len(found) != len(spec.outputs) or not all(isinstance(value, torch.Tensor) for value in found):
            kinds = [type(value).__name__ for value in found]
            why = f"forward returns {kinds}, and the pytorch backend wants {len(spec.outputs)} tensors, in order"
            raise TorchScriptUnusable(spec.name, why)
        answers = {tensor.name: value.detach().cpu().numpy() for tensor, value in zip(spec.outputs, found, strict=True)}
        for tensor in spec.outputs:
            got = answers[tensor.name].dtype
            if got != np.dtype(tensor.dtype):
                raise TorchScriptUnusable(spec.name, f"output {tensor.name!r} is {got}, the spec says {tensor.dtype}")
        return answers


def describe(path: Path) -> OnnxFile:
    """Return digest and size of a TorchScript file."""
    return OnnxFile(
        kind="torchscript",
        files={path.name: sha256_of(path)},
        size_bytes=path.stat().st_size,
        opset=0,
        precision="fp32",
    )


def _one_line(error: Exception) -> str:
    """Return the end of an error, where TorchScript says what went wrong behind its traces."""
    return " ".join(str(error).split())[-300:]

"""The ONNX file, run by ONNX Runtime with one execution provider."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.errors import OnnxUnusable, ProviderMissing
from model_release.spec import ModelSpec

Arrays = dict[str, npt.NDArray[Any]]
CPU, CUDA = "cpu", "cuda"
#: The execution provider of each name in `parity.providers`, and those that take what it has no kernel for.
EXECUTION_PROVIDERS = {
    CPU: ["CPUExecutionProvider"],
    CUDA: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_ERRORS_ONLY, _NOTHING = 3, 4


def import_onnxruntime() -> Any:
    """Import ONNX Runtime; its wheels would send usage events home from the first session on, if not told otherwise."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class Candidate:
    """
    An opened ONNX file.

    Raises ProviderMissing when the provider is not here, or runs nothing of the model; OnnxUnusable when the file does
    not open or has other inputs and outputs than the spec.
    """

    def __init__(self, spec: ModelSpec, path: Path, provider: str = CPU) -> None:
        self._spec, self.provider = spec, provider
        self._session = _open(spec, path, provider)
        for what, got, wanted in (
            ("inputs", self._session.get_inputs(), spec.inputs),
            ("outputs", self._session.get_outputs(), spec.outputs),
        ):
            names, expected = [tensor.name for tensor in got], [tensor.name for tensor in wanted]
            if sorted(names) != sorted(expected):
                raise OnnxUnusable(spec.name, f"its {what} are {names}, the spec says {expected}")

    def __call__(self, inputs: Arrays, what: str) -> Arrays:
        """
        Return the outputs by name for inputs by name, batch first.

        Raises OnnxUnusable, naming `what` was put in, when ONNX Runtime fails or an output has another type.
        """
        names = [tensor.name for tensor in self._spec.outputs]
        try:
            answers = dict(zip(names, self._session.run(names, inputs), strict=True))
        except Exception as error:
            raise OnnxUnusable(self._spec.name, f"ONNX Runtime fails on {what} ({_one_line(error)})") from error
        for tensor in self._spec.outputs:
            got = answers[tensor.name].dtype
            if got != np.dtype(tensor.dtype):
                raise OnnxUnusable(self._spec.name, f"output {tensor.name!r} is {got}, the spec says {tensor.dtype}")
        return answers


def _open(spec: ModelSpec, path: Path, provider: str) -> Any:
    """Open a session with exactly that provider; ONNX Runtime would take another one with no more than a warning."""
    onnxruntime = import_onnxruntime()
    wanted, offered = EXECUTION_PROVIDERS[provider], onnxruntime.get_available_providers()
    if wanted[0] not in offered:
        raise ProviderMissing(spec.name, provider, offered, f"this build has no {wanted[0]}")
    asked = [name for name in wanted if name in offered]
    try:
        session = onnxruntime.InferenceSession(
            str(path), _options(onnxruntime, provider), providers=asked, enable_fallback=0
        )
    except Exception as error:
        why = f"ONNX Runtime does not open it ({_one_line(error)})"
        if provider != CPU:
            _open(spec, path, CPU)
            raise ProviderMissing(spec.name, provider, offered, why) from error
        raise OnnxUnusable(spec.name, why) from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted[0]:
        why = f"{wanted[0]} does not start: its device, driver or libraries are missing"
        raise ProviderMissing(spec.name, provider, session.get_providers(), why)
    if provider != CPU and not any(part.ep_name == wanted[0] for part in session.get_provider_graph_assignment_info()):
        raise ProviderMissing(spec.name, provider, asked, f"{wanted[0]} takes no operator of this model")
    return session


def _options(onnxruntime: Any, provider: str) -> Any:
    # Without a GPU the onnxruntime-gpu package warns of missing CUDA libraries at every session.
    quiet = _ERRORS_ONLY if provider == CPU else _NOTHING
    onnxruntime.set_default_logger_severity(quiet)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = quiet
    # Threads that spin while they wait cost seconds on a machine that others use too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena grows in powers of two and gives nothing back, while batches of all sizes come once each.
    options.enable_cpu_mem_arena = False
    if provider != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

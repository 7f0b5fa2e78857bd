"""The ONNX file, run by ONNX Runtime on CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.errors import OnnxUnusable
from model_release.spec import ModelSpec

Arrays = dict[str, npt.NDArray[Any]]
#: The served result must not hang on which machine runs the pipeline, so parity never takes an accelerator.
PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ONLY = 3


def import_onnxruntime() -> Any:
    """Import ONNX Runtime; its wheels would send usage events home from the first session on, if not told otherwise."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class Candidate:
    """
    An opened ONNX file.

    Raises OnnxUnusable when it does not open or has other inputs and outputs than the spec.
    """

    def __init__(self, spec: ModelSpec, path: Path) -> None:
        onnxruntime = import_onnxruntime()
        self._spec = spec
        # Without a GPU the onnxruntime-gpu package warns of missing CUDA libraries at every session.
        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin while they wait cost seconds on a machine that others use too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(PROVIDERS))
        except Exception as error:
            why = f"ONNX Runtime does not open it ({_one_line(error)})"
            raise OnnxUnusable(spec.name, why) from error
        for what, got, wanted in (
            ("inputs", self._session.get_inputs(), spec.inputs),
            ("outputs", self._session.get_outputs(), spec.outputs),
        ):
            names, expected = [tensor.name for tensor in got], [tensor.name for tensor in wanted]
            if sorted(names) != sorted(expected):
                raise OnnxUnusable(spec.name, f"its {what} are {names}, the spec says {expected}")

    @property
    def providers(self) -> list[str]:
        """The execution providers that ran."""
        return [str(name) for name in self._session.get_providers()]

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


def opset_of(path: Path) -> int:
    """Return the opset of the file's standard operators."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

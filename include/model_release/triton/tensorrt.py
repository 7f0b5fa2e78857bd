"""
What Triton's TensorRT backend reads of a config: its one parameter, and the types that an engine takes.

From the backend's README; it passes over every other parameter. The types are those of TensorRT's DataType that the
backend maps to Triton's.
"""

from __future__ import annotations

from collections.abc import Mapping

from model_release.spec import ModelSpec
from model_release.triton.onnxruntime import Values, problems_with

PARAMETERS: Mapping[str, Values] = {
    "execution_context_allocation_strategy": Values("STATIC|ON_PROFILE_CHANGE", "STATIC or ON_PROFILE_CHANGE"),
}
_TYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32")


def problems_of(spec: ModelSpec) -> list[str]:
    """Say what the backend would pass over, and what no engine takes or gives."""
    if not spec.serving.is_engine:
        return []
    instead = "What is newer than this pipeline goes into raw: {parameters: ...}."
    return [
        *problems_with("serving.parameters", spec.serving.parameters, PARAMETERS, instead),
        *(
            f"{tensor.name} is {tensor.dtype}, which no TensorRT engine takes or gives; there are {', '.join(_TYPES)}"
            for tensor in (*spec.inputs, *spec.outputs)
            if tensor.dtype not in _TYPES
        ),
    ]

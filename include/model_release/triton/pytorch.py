"""
What Triton's PyTorch backend reads of a config: its parameters, the types that it knows, and how it takes names.

From the backend's README and the ParseParameters of its model_state.cc. It passes over every other parameter. Inputs go
to forward by the names of its arguments if all of them are such names, else by `<name>__<index>` if all of them have
that form, else in the order of the config; outputs come by `<name>__<index>`, else in the order of the config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from model_release.spec import ModelSpec, Tensor
from model_release.triton.onnxruntime import COUNT, SWITCH, Values, problems_with

PARAMETERS: Mapping[str, Values] = {
    "DISABLE_OPTIMIZED_EXECUTION": SWITCH,
    "INFERENCE_MODE": SWITCH,
    "DISABLE_CUDNN": SWITCH,
    "ENABLE_CACHE_CLEANING": SWITCH,
    "ENABLE_WEIGHT_SHARING": SWITCH,
    "ENABLE_TENSOR_FUSER": SWITCH,
    "ENABLE_JIT_PROFILING": SWITCH,
    "ENABLE_JIT_EXECUTOR": SWITCH,
    "INTRA_OP_THREAD_COUNT": COUNT,
    "INTER_OP_THREAD_COUNT": COUNT,
}
_NO_TENSOR = ("uint16", "uint32", "uint64")
_INDEXED = re.compile(r"__(\d+)$")


def problems_of(spec: ModelSpec) -> list[str]:
    """Say what the backend would refuse, pass over, or take in another order than the spec's."""
    if spec.serving.backend != "pytorch":
        return []
    instead = "What is newer than this pipeline goes into raw: {parameters: ...}."
    found = problems_with("serving.parameters", spec.serving.parameters, PARAMETERS, instead)
    tensors: list[tuple[str, Sequence[Tensor]]] = [("inputs", spec.inputs), ("outputs", spec.outputs)]
    for what, given in tensors:
        found += [
            f"{what}: {tensor.name} is {tensor.dtype}, which Triton's pytorch backend has no tensor for"
            for tensor in given
            if tensor.dtype in _NO_TENSOR
        ]
        found += _out_of_order(what, given)
    return found


def _out_of_order(what: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    indices = [_INDEXED.search(tensor.name) for tensor in tensors]
    for place, (tensor, index) in enumerate(zip(tensors, indices, strict=True)):
        if all(indices) and index is not None and int(index.group(1)) != place:
            yield (
                f"{what}: {tensor.name} stands at place {place}, and Triton's pytorch backend takes it for place "
                f"{int(index.group(1))}: list them in the order of forward"
            )

"""
ONNX Runtime as a Python-based Triton backend: the sandbox's stand-in for the backend of production.

It takes the same config.pbtxt and the same repository layout, runs on CPU, checks the graph against the config when
it loads, and fails a whole batch when ONNX Runtime does, as the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from batched import BatchedModel

_MODEL_FILE = "model.onnx"
#: optimization.graph.level of the real backend.
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}


class TritonPythonModel(BatchedModel):
    """One instance of one version."""

    called = "onnx runtime"

    def initialize(self, args: dict[str, str]) -> None:
        """Open the version's ONNX file; whatever is wrong with it is the load's error."""
        config = self.configure(args)
        try:
            self._session = ort.InferenceSession(
                str(_model_file(args, config)), _options(config), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            message = f"onnx runtime error: {error}"
            raise pb_utils.TritonModelException(message) from None
        _check(self._session.get_inputs(), self.inputs, "input", self.batching)
        _check(self._session.get_outputs(), self.outputs, "output", self.batching)

    def run(self, feed: dict[str, np.ndarray[Any, Any]], wanted: list[str]) -> list[np.ndarray[Any, Any]]:
        """Return the wanted outputs for a whole batch."""
        answers: list[np.ndarray[Any, Any]] = self._session.run(wanted, feed)
        return answers


def _model_file(args: dict[str, str], config: dict[str, Any]) -> Path:
    """Return the ONNX file of the version: a file, or `model.onnx` in a folder of that name."""
    name = config.get("default_model_filename") or _MODEL_FILE
    path = Path(args["model_repository"]) / args["model_version"] / name
    if path.is_dir():
        path = path / _MODEL_FILE
    if not path.is_file():
        message = f"unable to find '{path}' for model '{args['model_name']}'"
        raise pb_utils.TritonModelException(message)
    return path


def _options(config: dict[str, Any]) -> ort.SessionOptions:
    """Return the session's options from the config's parameters; one thread unless they say otherwise."""
    parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 1))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 1))
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    return options


def _check(nodes: list[Any], tensors: list[dict[str, Any]], what: str, batching: bool) -> None:
    """Refuse a config whose names, types or shapes are not the graph's."""
    known = {node.name: node for node in nodes}
    missing = [name for name in known if what == "input" and name not in {tensor["name"] for tensor in tensors}]
    if missing:
        message = f"the graph wants {what} {missing}, which the config does not have"
        raise pb_utils.TritonModelException(message)
    for tensor in tensors:
        name, node = tensor["name"], known.get(tensor["name"])
        if node is None:
            message = f"unexpected {what} '{name}', the graph has: {', '.join(sorted(known))}"
            raise pb_utils.TritonModelException(message)
        if node.type != _ONNX_TYPES[tensor["data_type"]]:
            message = f"{what} '{name}' is {node.type} in the graph, {tensor['data_type']} in the config"
            raise pb_utils.TritonModelException(message)
        dims = tensor.get("reshape", {}).get("shape", []) if "reshape" in tensor else tensor["dims"]
        expected = ([-1] if batching else []) + [int(size) for size in dims]
        if not _shapes_agree(node.shape, expected):
            message = f"{what} '{name}' has shape {node.shape} in the graph, {expected} in the config"
            raise pb_utils.TritonModelException(message)


def _shapes_agree(graph: list[Any], config: list[int]) -> bool:
    """Return whether a config may say these dims: as many, and no fixed size of the graph contradicted."""
    if len(graph) != len(config):
        return False
    if config and config[0] == -1 and isinstance(graph[0], int):
        return False
    return all(not isinstance(theirs, int) or ours in {theirs, -1} for theirs, ours in zip(graph, config, strict=True))

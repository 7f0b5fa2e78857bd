"""An ensemble of two parts in Python around a linear model, for tests that need no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_release.spec import ModelSpec

VERSION = 20260101000000

_START = """
import numpy as np
import triton_python_backend_utils as pb_utils
from lengths import LENGTHS

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            x = np.array([[len(text), LENGTHS, 1] for text in texts.ravel()], np.float32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("x", x)]))
        return answers
"""
_END = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.dims = config["output"][0]["dims"]

    def execute(self, requests):
        answers = []
        for request in requests:
            y = pb_utils.get_input_tensor_by_name(request, "y").as_numpy()
            label = np.array([b"first" if row[0] > row[1] else b"second" for row in y], object)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("label", label)]))
        return answers
"""


def write_parts(root: Path) -> None:
    """Write the folders of both parts in Python below `root`, which is an `include` folder."""
    for name, files in {
        "start": {"model.py": _START, "lengths.py": "LENGTHS = 7\n"},
        "end": {"model.py": _END},
    }.items():
        (root / name).mkdir(parents=True)
        for file, text in files.items():
            (root / name / file).write_text(text)


def inner(**changes: Any) -> dict[str, Any]:
    """Return the config of the part with weights, as its own file would say it."""
    return {
        "name": "toy",
        "source": {"checkpoint": "file:///toy-{{ version }}.safetensors", "factory": "tests.unit.toys:linear"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [2]}],
        "parity": {"batch_sizes": [1, 4]},
        "serving": {"max_batch_size": 8},
        **changes,
    }


def values(**changes: Any) -> dict[str, Any]:
    """Return an ensemble: a text's length through the linear model, to a label."""
    parts = {"start": {"python": "include/start"}, "model": {"config": "toy"}, "end": {"python": "include/end"}}
    steps = [
        {"part": "start", "inputs": {"text": "text"}, "outputs": {"x": "lengths"}},
        {"part": "model", "inputs": {"x": "lengths"}, "outputs": {"y": "scores"}},
        {"part": "end", "inputs": {"y": "scores"}, "outputs": {"label": "label"}},
    ]
    return {
        "name": "whole",
        "inputs": [{"name": "text", "dtype": "string", "shape": []}],
        "outputs": [{"name": "label", "dtype": "string", "shape": []}],
        "parity": {"batch_sizes": [1, 4]},
        "serving": {"max_batch_size": 4, "ensemble": {"parts": parts, "steps": steps}},
        **changes,
    }


def whole(inner_changes: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    """Return the ensemble as it is once the config of its part has been read."""
    given = values(**changes)
    given["serving"]["ensemble"]["parts"]["model"]["spec"] = inner(**(inner_changes or {}))
    return ModelSpec.model_validate(given)

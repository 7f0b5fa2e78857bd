"""Small ONNX graphs written as text, and the modules that they are held against: no exporter, so no second each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import torch
from torch import Tensor

from model_release import parity
from model_release.parity.report import ParityReport, Source
from model_release.spec import ModelSpec
from tests.unit import toys

SOURCE = Source(uri="file:///toy.safetensors", sha256="ab" * 32)


def spec(output: str = "float32", shape: list[Any] | None = None, **changes: Any) -> ModelSpec:
    """Return a spec with one input x [3] and one output y, of these."""
    outputs = [{"name": "y", "dtype": output, "shape": [3] if shape is None else shape}]
    return toys.spec(**{"outputs": outputs, **changes})


def graph(folder: Path, body: str, outputs: str = "float[batch,3] y", inputs: str = "float[batch,3] x") -> Path:
    """Write an ONNX file of these statements; constants are written as `k = Constant <value = float {2}> ()`."""
    text = f'<ir_version: 9, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {body} }}'
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


class Calls(torch.nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def prove(made: ModelSpec, function: Any, path: Path, **more: Any) -> ParityReport:
    """Prove a graph against a function or module."""
    module = function if isinstance(function, torch.nn.Module) else Calls(function)
    return parity.prove(made, module.eval(), path, source=SOURCE, **more)


def failures(report: ParityReport) -> list[str]:
    """Return the names of the failures."""
    assert report.passed == (not report.failures)
    return [failure.error for failure in report.failures]

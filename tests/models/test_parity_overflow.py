"""A float16 graph that overflows on a GPU is refused, though a CPU's answers do not show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from model_release import parity
from model_release.export import export_onnx
from model_release.parity.report import ParityReport, Source
from tests.unit import toys


class Norm(nn.Module):
    """Divides by the root of squares: small in, small out, and `scale` squared between."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        states = x[:, :2] * self.scale + 1
        return states / (states * states).sum(1, keepdim=True).sqrt()


class Masks(nn.Module):
    """Infinity where it is meant: a mask before a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.where(x > 0, x, -torch.inf)
        return torch.cat([torch.zeros_like(x[:, :1]), scores], 1).softmax(1)[:, :2]


def prove(module: nn.Module, folder: Path, **export: Any) -> ParityReport:
    path = folder / "model.onnx"
    spec = toys.spec(
        inputs=[{"name": "x", "dtype": "float32", "shape": [3], "range": [-1, 1]}],
        export={"precision": "fp16", **export},
    )
    export_onnx(spec, module.eval(), path, version=toys.VERSION, source_sha256=toys.SHA256)
    before = sorted(folder.iterdir())
    report = parity.prove(spec, module, path, source=Source(uri="file:///toy", sha256=toys.SHA256))
    assert sorted(folder.iterdir()) == before, "a copy of the graph stays"
    return report


def test_an_inner_value_beyond_float16_is_refused_by_its_operator(tmp_path: Path) -> None:
    report = prove(Norm(1000), tmp_path)
    assert [failure.error for failure in report.failures] == ["Overflow"]
    assert "makes infinity or NaN of finite inputs" in report.failures[0].message
    assert "Mul" in report.failures[0].message


def test_the_same_within_float16_passes(tmp_path: Path) -> None:
    assert prove(Norm(10), tmp_path).failures == []


def test_operators_that_are_kept_in_float32_pass(tmp_path: Path) -> None:
    assert prove(Norm(1000), tmp_path, keep_fp32=["Mul", "ReduceSum", "Sqrt", "Div"]).failures == []
    # Between two of them nothing is narrowed, and a value that two of them read is cast once.
    types = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert types[types.index("ReduceSum") : types.index("Div") + 1] == ["ReduceSum", "Sqrt", "Div"]


def test_an_infinity_that_is_meant_passes(tmp_path: Path) -> None:
    assert prove(Masks(), tmp_path).failures == []


def test_float32_is_not_looked_into(tmp_path: Path) -> None:
    assert prove(Norm(1000), tmp_path, precision="fp32").failures == []

"""Layers that break parity in practice, through the real exporter: each is caught, and by its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_release.export import export_onnx
from model_release.parity.report import ParityReport
from model_release.spec import ModelSpec
from tests.unit import toys
from tests.unit.parity_graphs import failures, graph, prove, spec


def proved(made: ModelSpec, module: nn.Module, folder: Path, **more: Any) -> ParityReport:
    export_onnx(made, module.eval(), folder / "model.onnx", version=1, source_sha256="0" * 64)
    return prove(made, module, folder / "model.onnx", **more)


class Padded(nn.Module):
    """A convolution over embeddings, attention and pooling under a mask, and the best of the result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 8)
        self.near = nn.Conv1d(8, 12, 3, padding=1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.near(self.table(ids).mT).mT
        heads, seen = states[:, None], (mask != 0)[:, None, None]
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=seen)[:, 0]
        weight = mask[..., None].to(mixed.dtype)
        pooled = (mixed * weight).sum(1) / weight.sum(1)
        return pooled, pooled.argmax(1)


PADDED = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [0, 29]},
        {"name": "mask", "dtype": "int64", "shape": ["seq"], "range": [0, 1]},
    ],
    "dynamic_axes": {"seq": {"min": 1, "max": 40}},
    "outputs": [{"name": "pooled", "dtype": "float32", "shape": [12]}, {"name": "best", "dtype": "int64", "shape": []}],
    "serving": {"max_batch_size": 16},
    "parity": {},
}


@pytest.mark.filterwarnings("ignore")
def test_attention_and_padding_are_proved_from_the_shortest_to_the_longest(tmp_path: Path) -> None:
    report = proved(toys.spec(**PADDED), Padded(), tmp_path)
    assert report.passed, report.failures
    assert report.deterministic
    assert [found.top1_agreement for found in report.outputs] == [1, None]
    assert report.outputs[0].max_abs < 1e-5
    assert report.outputs[0].reference_non_finite == 0


@pytest.mark.filterwarnings("ignore")
def test_a_softmax_over_the_wrong_axis_is_refused_and_the_model_blamed(tmp_path: Path) -> None:
    over_the_batch = nn.Softmax(dim=0)
    report = proved(spec(), over_the_batch, tmp_path)
    assert failures(report) == ["BatchDependent"]
    assert "The PyTorch model does so too" in report.failures[0].message
    assert proved(spec(serving={"max_batch_size": 0}, parity={}), over_the_batch, tmp_path).passed


class LeftOn(nn.Module):
    """Dropout that does not ask whether the module is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.head(x), 0.2, training=True)


@pytest.mark.filterwarnings("ignore")
def test_a_dropout_that_was_left_on_is_named_and_not_called_a_difference(tmp_path: Path) -> None:
    report = proved(spec(), LeftOn(), tmp_path)
    assert failures(report) == ["NotDeterministic"]
    assert "in the model itself (LeftOn), test_parity_layers.py" in report.failures[0].message


@pytest.mark.filterwarnings("ignore")
def test_weights_of_another_training_run_are_refused(tmp_path: Path) -> None:
    module = Padded()
    export_onnx(toys.spec(**PADDED), module.eval(), tmp_path / "model.onnx", version=1, source_sha256="0" * 64)
    with torch.no_grad():
        module.near.weight[3, 1, 0] += 0.5
    report = prove(toys.spec(**PADDED), module, tmp_path / "model.onnx", worst_path=tmp_path / "worst.npz")
    assert "ParityFailed" in failures(report)
    saved = np.load(tmp_path / "worst.npz")
    with torch.inference_mode():
        again = module(*(torch.from_numpy(saved[f"pooled.input.{name}"]) for name in ("ids", "mask")))[0]
    np.testing.assert_allclose(again.numpy(), saved["pooled.reference"], atol=1e-6)
    assert abs(saved["pooled.answer"] - saved["pooled.reference"]).max() > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_that_draws_is_still_found(tmp_path: Path) -> None:
    scripted = torch.jit.script(Drawing())
    report = prove(spec(), scripted, graph(tmp_path, "y = Identity (x)"))
    assert set(failures(report)) == {"NotDeterministic"}


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)

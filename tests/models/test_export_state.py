"""A model that remembers is refused by the buffer that it changes.

One that puts a new tensor in the place of a buffer exports unseen; the proof finds that its answers change.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_release.errors import ExportFailed
from model_release.export import export_onnx
from tests.unit import toys


class Counts(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "in place":
            self.calls.add_(1)
        else:
            self.calls[:1].mul_(2)
        return x[:, :2] + self.calls


@pytest.mark.parametrize("how", ["in place", "through a view"])
def test_a_buffer_that_forward_changes_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportFailed, match="buffer calls"):
        export_onnx(toys.spec(), Counts(how).eval(), path, version=toys.VERSION, source_sha256=toys.SHA256)
    assert list(tmp_path.iterdir()) == []


def test_changing_a_value_of_its_own_is_no_state(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).add_(1)[:, :2]

    path = tmp_path / "model.onnx"
    export_onnx(toys.spec(), InPlace().eval(), path, version=toys.VERSION, source_sha256=toys.SHA256)
    assert path.exists()

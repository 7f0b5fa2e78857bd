"""A query that may look at nothing answers in ONNX what it answers in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from model_release.export import export_onnx
from tests.unit import toys


class Masked(nn.Module):
    """One head over three steps; `kept` says which of them any query may look at."""

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        states = x[:, None, :, None].expand(-1, 1, -1, 2)
        causal = torch.ones(3, 3, dtype=torch.bool).tril()
        mask = causal & kept[:, None, None, :]
        return nn.functional.scaled_dot_product_attention(states, states, states, attn_mask=mask)[:, 0, :, 0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_row_that_is_masked_throughout_answers_zero(tmp_path: Path, precision: str) -> None:
    path, module = tmp_path / "model.onnx", Masked().eval()
    spec = toys.spec(
        inputs=[
            {"name": "x", "dtype": "float32", "shape": [3]},
            {"name": "kept", "dtype": "bool", "shape": [3]},
        ],
        outputs=[{"name": "y", "dtype": "float32", "shape": [3]}],
        export={"precision": precision},
    )
    export_onnx(spec, module, path, version=toys.VERSION, source_sha256=toys.SHA256)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    kept = np.array([[False, False, True], [True, True, True]])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answer = session.run(None, {"x": x, "kept": kept})[0]
    expected = module(torch.from_numpy(x), torch.from_numpy(kept)).numpy()
    assert expected[0, 0] == 0
    np.testing.assert_allclose(answer, expected, atol=1e-2 if precision == "fp16" else 1e-5)

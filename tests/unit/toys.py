"""Small modules, specs and an environment for the tests of intake, export and parity."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from model_release.export import export_onnx
from model_release.spec import ModelSpec
from tests.unit.served_toys import ENVIRONMENT as ENVIRONMENT

# One thread: others of the same machine may be busy, and waiting threads of torch spin.
torch.set_num_threads(1)

VERSION = 20260102030000
SHA256 = "ab" * 32


def spec(**changes: Any) -> ModelSpec:
    """Return a spec of a model with one input x [3] and one output y [2], with changes."""
    values: dict[str, Any] = {
        "name": "toy",
        "source": {"checkpoint": "file:///toy.safetensors", "factory": "tests.unit.toys:linear"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [2]}],
        "parity": {"batch_sizes": [1, 4]},
        "serving": {"max_batch_size": 8},
    }
    return ModelSpec.model_validate({**values, **changes})


def uri(path: Path) -> str:
    return f"file://{path}"


def linear(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(width, 2).eval()


def no_module() -> str:
    return "a string"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Tokens(nn.Module):
    """Two inputs in an order of its own, a dynamic axis, two outputs in a dict with one too many."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4)

    def forward(self, mask: Tensor, ids: Tensor) -> dict[str, Tensor]:
        states = self.table(ids) * mask[..., None]
        pooled = states.sum(1) / mask.sum(1, keepdim=True)
        return {"states": states, "unused": states * 2, "pooled": pooled}


def tokens_spec(**changes: Any) -> ModelSpec:
    return spec(
        inputs=[
            {"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [0, 9]},
            {"name": "mask", "dtype": "int64", "shape": ["seq"], "range": [0, 1]},
        ],
        dynamic_axes={"seq": {"min": 2, "max": 12}},
        outputs=[
            {"name": "pooled", "dtype": "float32", "shape": [4]},
            {"name": "states", "dtype": "float32", "shape": ["seq", 4]},
        ],
        **changes,
    )


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x[:, :2]
        return x[:, 1:]


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])[:, :2]


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3)[:, :2]


class Neighbours(nn.Module):
    """What a forgotten batch statistic does: each answer depends on the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0, keepdim=True))[:, :2]


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        message = "no such thing"
        raise ValueError(message)


class Mean(nn.Module):
    """Loses the batch axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)[:2]


@cache
def _exported(which: str) -> bytes:
    made, module = {"linear": (spec(), linear()), "tokens": (tokens_spec(), Tokens())}[which]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(made, module, path, version=VERSION, source_sha256=SHA256)
        return path.read_bytes()


def exported(which: str, folder: Path) -> Path:
    """Write the ONNX file of `linear` or `tokens`, which is exported once for all tests: an export takes a second."""
    path = folder / "model.onnx"
    path.write_bytes(_exported(which))
    return path

"""Factories of modules that must not be released: each has one mistake that real models have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _OneInput(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A linear layer [3] to [2], which its heirs spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, 2]."""
        return self.layer(x)


class Wider(_OneInput):
    """Another architecture than the checkpoint's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 5), nn.LayerNorm(5)


class Branches(_OneInput):
    """`if` on the values of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Take one of two ways."""
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class ReadsValue(_OneInput):
    """A slice as long as a value says."""

    def forward(self, x: Tensor) -> Tensor:
        """Cut as the data says."""
        return self.layer(x) * int(x.abs().max().item())


class Eigenvalues(_OneInput):
    """An operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Return two eigenvalues."""
        return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])[:, :2]


class FixedBatch(_OneInput):
    """A reshape to the batch that the author had."""

    def forward(self, x: Tensor) -> Tensor:
        """Forget the batch axis."""
        return self.layer(x).reshape(2, 2)


class Centred(_OneInput):
    """Statistics of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Take the others' mean away."""
        answer = self.layer(x)
        return answer - answer.mean(0, keepdim=True)


class TrainingNorm(_OneInput):
    """A BatchNorm that is called as in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the batch."""
        # Two positions each, since torch refuses statistics of a single value.
        twice = torch.stack([self.layer(x), self.layer(-x)], 2)
        return nn.functional.batch_norm(twice, None, None, training=True)[:, :, 0]


class Places(_OneInput):
    """The place in the batch as a feature, as a cumulative sum over the wrong axis gives it."""

    def forward(self, x: Tensor) -> Tensor:
        """Add up over the samples before."""
        return self.layer(x).cumsum(0)


class ForcedDropout(_OneInput):
    """Dropout that eval mode does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop as in training."""
        return nn.functional.dropout(self.layer(x), 0.5, training=True)


class Samples(_OneInput):
    """Draws its answer, as a variational encoder does."""

    def forward(self, x: Tensor) -> Tensor:
        """Add noise."""
        answer = self.layer(x)
        return answer + torch.randn_like(answer)


class Counts(_OneInput):
    """A buffer that every call changes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Answer by how often it was asked."""
        self.calls.add_(1)
        return self.layer(x) + self.calls


class _Outside(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    """A function that leaves torch."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Compute with numpy."""
        return torch.from_numpy(x.detach().numpy() * 2)


class OwnFunction(_OneInput):
    """An autograd function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.layer(_Outside.apply(x))


@torch.library.custom_op("sandbox_exports::doubled", mutates_args=())  # type: ignore[untyped-decorator]
def doubled(x: Tensor) -> Tensor:
    """Return twice x, by an operator that nobody else has."""
    return x * 2


@doubled.register_fake  # type: ignore[untyped-decorator]
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class OwnOperator(_OneInput):
    """An operator registered by the user."""

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return doubled(self.layer(x))


class Overflows(_OneInput):
    """Goes beyond 65504 on the way to a small answer."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide by a norm of large squares."""
        answer = self.layer(x) * 1000
        return answer / (answer * answer).sum(1, keepdim=True).sqrt()


class AnyLength(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A recurrent layer over an axis of any length, which the exporter unrolls to one length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last state [batch, 2] of x [batch, time, 3]."""
        return self.lstm(x)[0][:, -1]


class LargeWeight(_OneInput):
    """A weight beyond float16."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1e6, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the answer."""
        return self.layer(x) * self.scale * 1e-6


class TurnsTraining(_OneInput):
    """Switches itself to training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Change its own mode."""
        self.train()
        return self.layer(x)


class LosesBatch(_OneInput):
    """Returns one answer for all."""

    def forward(self, x: Tensor) -> Tensor:
        """Forget the batch."""
        return self.layer(x).mean(0)


class Turned(_OneInput):
    """Sound, and of another space than `plain`: classes and directions change their places."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same figures in another order, one of them with another sign."""
        return self.layer(x).flip(1) * x.new_tensor([1.0, -1.0])


def plain() -> nn.Module:
    """Return a linear layer with nothing wrong."""
    return _OneInput()

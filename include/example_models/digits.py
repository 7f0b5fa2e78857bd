"""
A small CNN that reads handwritten digits: the factory of `digits_classifier`.

Input `image` float32 [batch, 1, 8, 8], ink from 0 (paper) to 1 (black); output `logits` float32 [batch, 10].

The logits are calibrated by contrast: bold strokes make a network surer than it should be, so each level of contrast
has a scale of its own, learned with the weights. Where one level ends and the next begins is data and travels in the
checkpoint as `contrast_bounds`. A checkpoint is sound when its last bound lies above every possible contrast, as
`training.contrast_bounds` makes it. One whose last bound is merely the highest contrast of its training data looks
equally sound on that data, and indexes past the table at the first bolder image: in PyTorch an IndexError, in ONNX
Runtime an error of Gather. The demo's broken candidate is such a checkpoint; its architecture is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONTRAST_LEVELS = 16


def contrast(images: Tensor) -> Tensor:
    """
    Return the variance of each image's pixels, [batch], from 0 (even paper or even ink) to 0.25.

    Pixels are sixteenths, for which this arithmetic is exact: level and training data agree to the last bit.
    """
    pixels = images.flatten(1)
    mean = pixels.mean(1)
    return (pixels * pixels).mean(1) - mean * mean


class DigitsClassifier(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Two convolutions, two linear layers, and a scale of the logits by level of contrast."""

    contrast_bounds: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(2 * width * 16, 64), nn.ReLU(), nn.Linear(64, 10))
        self.contrast_scale = nn.Parameter(torch.ones(CONTRAST_LEVELS))
        self.register_buffer("contrast_bounds", torch.linspace(1 / CONTRAST_LEVELS, 1, CONTRAST_LEVELS))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [batch, 10] of images [batch, 1, 8, 8]."""
        level = (contrast(image)[:, None] > self.contrast_bounds).sum(1)
        return self.head(self.features(image)) * self.contrast_scale[level][:, None]


def build(width: int = 16) -> nn.Module:
    """Return the untrained network; `width` is the number of channels of the first convolution."""
    return DigitsClassifier(width)

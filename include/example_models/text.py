"""
A small CNN that tells what a short text feels: the factory of `text_classifier`.

Input `input_ids` int64 [batch, tokens], places of `text_tokens`, 0 where there is none; output `logits` float32
[batch, 3], in the order of `text_tokens.LABELS`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from example_models.text_tokens import LABELS, PADDING, PLACES


class TextClassifier(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Words and their neighbours, the strongest and the mean of what they say, and one linear layer."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words = nn.Embedding(PLACES, width)
        self.neighbours = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(4 * width, len(LABELS))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return logits [batch, 3] for token ids [batch, tokens]; padding counts for nothing, at whatever length."""
        present = (input_ids != PADDING).to(self.words.weight.dtype)[:, None]
        words = self.dropout(self.words(input_ids).transpose(1, 2) * present)
        heard = torch.relu(self.neighbours(words)) * present
        mean = heard.sum(2) / present.sum(2).clamp(min=1)
        return self.head(self.dropout(torch.cat([heard.amax(2), mean], 1)))


def build(width: int = 48) -> nn.Module:
    """Return the untrained network; `width` is the number of values of a word."""
    return TextClassifier(width)

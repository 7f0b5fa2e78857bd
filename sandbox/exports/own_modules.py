"""Architectures that teams write themselves: recurrent, tabular, segmentation, recommendation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class RowReader(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A GRU that reads the rows [rows, 8] of a digit; logits [10]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 64, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [batch, 10] of rows [batch, rows, 8]."""
        states, _ = self.gru(rows)
        return self.head(states.mean(1))


class TabularMlp(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Standardization, which travels in buffers, and three layers; a dict with a scalar."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int = 30) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.layers = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits [batch, 2] and the probability [batch] of class 1."""
        logits = self.layers((features - self.mean) / self.std)
        return {"logits": logits, "probability": logits.softmax(1)[:, 1]}


@dataclass
class Offer:
    """What MixedTabular answers."""

    price: Tensor
    tier: Tensor
    eligible: Tensor


class MixedTabular(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Categories through embeddings, numbers in two precisions, flags; a dataclass of scalars of three dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 8) for size in (100, 12, 7))
        self.norm = nn.BatchNorm1d(3 * 8 + 6 + 4 + 2)
        self.trunk = nn.Sequential(nn.Linear(36, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 32), nn.GELU())
        self.price, self.tier = nn.Linear(32, 1), nn.Linear(32, 5)

    def forward(self, categories: Tensor, numbers: Tensor, coarse: Tensor, flags: Tensor) -> Offer:
        """Take int64 [3], float32 [6], float16 [4] and bool [2]."""
        looked_up = [table(categories[:, i] % table.num_embeddings) for i, table in enumerate(self.tables)]
        parts = [*looked_up, numbers, coarse.float(), flags.float()]
        states = self.trunk(self.norm(torch.cat(parts, 1)))
        price = nn.functional.softplus(self.price(states)).squeeze(1)
        return Offer(price=price, tier=self.tier(states).argmax(1), eligible=flags.any(1) & (price > 0.1))


class UNet(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Two levels down and up with skips, for images of any size; one mask of logits per class."""

    def __init__(self, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2 = _convolutions(3, width), _convolutions(width, 2 * width)
        self.bottom = _convolutions(2 * width, 4 * width)
        self.up2, self.up1 = _convolutions(6 * width, 2 * width), _convolutions(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [batch, classes, height, width] of images [batch, 3, height, width]."""
        first = self.down1(image)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        states = self.bottom(nn.functional.max_pool2d(second, 2))
        states = nn.functional.interpolate(states, size=second.shape[2:], mode="bilinear", align_corners=False)
        states = self.up2(torch.cat([states, second], 1))
        states = nn.functional.interpolate(states, size=first.shape[2:], mode="bilinear", align_corners=False)
        return self.head(self.up1(torch.cat([states, first], 1)))


def _convolutions(come: int, go: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(come, go, 3, padding=1), nn.BatchNorm2d(go), nn.ReLU(), nn.Conv2d(go, go, 3, padding=1), nn.SiLU()
    )


class TwoTower(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A user (id, history) and an item (id, features) as vectors; their cosine is the score. Three outputs, a tuple."""

    def __init__(self, users: int = 5000, items: int = 2000) -> None:
        super().__init__()
        self.user_table, self.item_table = nn.Embedding(users, 32), nn.Embedding(items, 32)
        self.user = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.item = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(
        self, user_id: Tensor, history: Tensor, history_mask: Tensor, item_id: Tensor, item_features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take int64 [], int64 [items], bool [items], int64 [] and float32 [8]."""
        kept = history_mask[..., None].float()
        read = (self.item_table(history) * kept).sum(1) / kept.sum(1).clamp(min=1)
        user = nn.functional.normalize(self.user(torch.cat([self.user_table(user_id), read], 1)), dim=1)
        item = nn.functional.normalize(self.item(torch.cat([self.item_table(item_id), item_features], 1)), dim=1)
        return (user * item).sum(1), user, item


class Tcn(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Dilated causal convolutions over a series of any length; a forecast for each step."""

    def __init__(self, channels: int = 4, width: int = 32, levels: int = 5) -> None:
        super().__init__()
        sizes = [channels, *[width] * levels]
        self.layers = nn.ModuleList(nn.Conv1d(sizes[i], sizes[i + 1], 3, dilation=2**i) for i in range(levels))
        self.head = nn.Conv1d(width, 1, 1)

    def forward(self, series: Tensor) -> Tensor:
        """Return the forecast [batch, time] of series [batch, channels, time]."""
        states = series
        for level, layer in enumerate(self.layers):
            after = layer(nn.functional.pad(states, (2 * 2**level, 0))).relu()
            states = after if level == 0 else after + states
        return self.head(states).squeeze(1)


class PlainTransformer(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """torch's own TransformerEncoder, which has a fast path of its own in eval mode, with a boolean padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Return the mean state [batch, 64] of tokens int64 [batch, seq] that `kept`, bool [batch, seq], keeps."""
        states = self.encoder(self.table(tokens), src_key_padding_mask=~kept)
        weights = kept[..., None].float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class SmallCnn(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A CNN without tricks, to be saved as a program."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        )
        self.head = nn.Linear(256, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [batch, 10] of images [batch, 3, 32, 32]."""
        return self.head(self.features(image).flatten(1))

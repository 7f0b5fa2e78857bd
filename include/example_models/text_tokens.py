"""
The tokenizer of the example `text_classifier`: lower-case words, each hashed into one of 8191 places.

It has no vocabulary file, so no checkpoint and tokenizer can belong to different trainings, and it needs numpy alone: a
Triton model in Python can run it before the classifier.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import numpy.typing as npt

#: Place 0 is padding; words have the others.
PADDING, PLACES = 0, 8192
MOST_TOKENS = 64
#: Rows are padded to a multiple of this: Triton batches only requests of one length.
PADDED_TO = 16
LABELS = ("negative", "neutral", "positive")
_TOKEN = re.compile(r"https?://\S+|[@#]?\w+(?:'\w+)?|[!?]+|[:;=][-']?[()DP]")


def token_ids(text: str) -> list[int]:
    """Return the places of a text's first 64 tokens, each from 1 to 8191; none for a text without a word."""
    return [_place(word) for word in _TOKEN.findall(text.lower())[:MOST_TOKENS]]


def tokenized(texts: list[str]) -> npt.NDArray[np.int64]:
    """Return the `input_ids` of some texts, int64 [n, tokens], padded with 0 to a multiple of 16."""
    rows = [token_ids(text) for text in texts]
    longest = max(1, *(len(row) for row in rows))
    padded = np.full((len(rows), -(-longest // PADDED_TO) * PADDED_TO), PADDING, np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _place(word: str) -> int:
    """Return the place of a word; every link is one word, and so is every mention of somebody."""
    kind = "http" if word.startswith("http") else word[0] if word[0] == "@" else word
    return 1 + zlib.crc32(kind.encode()) % (PLACES - 1)

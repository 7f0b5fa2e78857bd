"""Generated texts: words like those that users send, and the edges of what a text can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_WORDS = (
    *("the", "a", "and", "of", "in", "is", "it", "was", "not", "very", "good", "bad", "fine", "why", "it's", "x"),
    *("2026", "42", "3.14", "http://example.org/a?b=c", "@who", "#tag", ":-)", "...", "!?", "--", '"quoted"', "\\"),
    *("CAPITALS", "na\u00efve", "Stra\u00dfe", "\u6771\u4eac", "\u043f\u0440\u0438", "\U0001f642"),
)
_MOST_WORDS = 24
_LONG = 4096
#: By their names for people.
EDGES = {
    "an empty text": "",
    "a space": " ",
    "one letter": "a",
    "no word at all": "?!.,;",
    "a line break and a tab": "one\ntwo\tthree",
    "letters of several scripts": "\u6771\u4eac \u043f\u0440\u0438 na\u00efve \U0001f642 \ufb01 \u00e9",
    f"one word of {_LONG} letters": "a" * _LONG,
    f"{_LONG // 4} words": "one " * (_LONG // 4),
}


def generate(random: np.random.Generator, shape: tuple[int, ...], examples: Sequence[str]) -> npt.NDArray[Any]:
    """Return texts of up to 24 words of the examples, or of words of several scripts, as an array of this shape."""
    words = [word for text in examples for word in text.split()] or _WORDS
    counts = random.integers(0, _MOST_WORDS, int(np.prod(shape)), endpoint=True)
    made = [" ".join(words[place] for place in random.integers(0, len(words), count)) for count in counts]
    return np.array(made, "U").reshape(shape)


def edge(name: str) -> str:
    """Return the text of an edge; where other inputs have another edge, an empty one."""
    return EDGES.get(name, "")

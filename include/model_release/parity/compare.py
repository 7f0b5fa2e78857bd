"""Two arrays of answers, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.spec import Tolerance

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """
    Every element of two arrays of one shape.

    `error` is |answer - reference| as float64, and infinite where one side alone is NaN or infinite; `bound` is what is
    allowed; `differs` is where the error is beyond it.
    """

    error: npt.NDArray[np.float64]
    bound: npt.NDArray[np.float64]
    differs: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """How far apart two arrays are; `worst_abs` is infinite where one side alone is not finite."""

    worst_abs: float
    differing: int
    elements: int

    def __or__(self, other: Difference) -> Difference:
        """Return the difference of both comparisons together."""
        return Difference(
            max(self.worst_abs, other.worst_abs), self.differing + other.differing, self.elements + other.elements
        )


def judge(answer: Array, reference: Array, tolerance: Tolerance) -> Judged:
    """
    Judge elements by |answer - reference| <= atol + rtol * |reference|; arrays have one shape and dtype.

    NaN and the infinities equal only themselves. Whole numbers are subtracted as such: float64 would lose some. Texts
    are equal, or 1 apart.
    """
    if reference.dtype.kind == "U":
        unequal = np.asarray(answer != reference)
        return Judged(unequal.astype(np.float64), np.zeros(reference.shape), unequal)
    if reference.dtype.kind in "iub":
        error, finite = _whole_error(answer, reference), np.ones(reference.shape, np.bool_)
    else:
        error, finite = _float_error(answer, reference)
    size = np.abs(reference.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        bound = np.where(finite, tolerance.atol + tolerance.rtol * size, 0.0)
    return Judged(error, bound, error > bound)


def _whole_error(answer: Array, reference: Array) -> npt.NDArray[np.float64]:
    if reference.dtype.kind == "b":
        return np.asarray(answer != reference, np.float64)
    # The larger minus the smaller, modulo 2^64, is the exact distance of any two 64-bit numbers.
    wide = np.uint64 if reference.dtype.kind == "u" else np.int64
    a, b = answer.astype(wide), reference.astype(wide)
    with np.errstate(over="ignore"):
        return np.asarray(np.where(a > b, a - b, b - a).view(np.uint64).astype(np.float64))


def _float_error(answer: Array, reference: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the error, and where both sides are finite."""
    a, b = answer.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.minimum(np.abs(a - b), np.finfo(np.float64).max)
    return np.where(same, 0.0, np.where(finite, error, np.inf)), finite


def compare(answer: Array, reference: Array, tolerance: Tolerance) -> Difference:
    """Judge arrays of one shape and dtype as a whole."""
    judged = judge(answer, reference, tolerance)
    return Difference(float(judged.error.max(initial=0.0)), int(judged.differs.sum()), int(reference.size))


def ulps(answer: Array, reference: Array) -> npt.NDArray[np.float64]:
    """
    Return how many floats of their dtype lie between finite floats and their reference: 1 is the next neighbour.

    The bits of IEEE 754 floats, read as whole numbers, are in the order of the floats (Goldberg 1991, and Dawson's
    "Comparing floating point numbers"); negative ones are turned around, and -0.0 is 0.0.
    """
    whole = np.dtype(f"i{reference.dtype.itemsize}")
    a, b = (_ordered(np.ascontiguousarray(array).view(whole)) for array in (answer, reference))
    with np.errstate(over="ignore"):
        return np.asarray(np.where(a > b, a - b, b - a).view(np.uint64).astype(np.float64))


def _ordered(bits: Array) -> Array:
    lowest = np.int64(np.iinfo(bits.dtype).min)
    wide = bits.astype(np.int64)
    return np.asarray(np.where(wide < 0, lowest - wide, wide))

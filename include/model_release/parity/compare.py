"""Two arrays of answers, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.spec import Tolerance


@dataclass(frozen=True)
class Difference:
    """How far apart two arrays are; the relative error is over elements whose reference is not 0."""

    worst_abs: float
    worst_rel: float
    differing: int
    elements: int

    def __or__(self, other: Difference) -> Difference:
        """Return the difference of both comparisons together."""
        return Difference(
            max(self.worst_abs, other.worst_abs),
            max(self.worst_rel, other.worst_rel),
            self.differing + other.differing,
            self.elements + other.elements,
        )


def compare(answer: npt.NDArray[Any], reference: npt.NDArray[Any], tolerance: Tolerance) -> Difference:
    """
    Compare arrays of one shape: an element differs beyond atol + rtol * |reference|.

    NaN and the infinities equal only themselves, and whole numbers and booleans only the very same.
    """
    if reference.dtype.kind in "iub":
        error = np.abs(answer.astype(object) - reference.astype(object)).astype(np.float64)
        differs = answer != reference
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            a, b = answer.astype(np.float64), reference.astype(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            error = np.where(same, 0.0, np.abs(a - b))
            error = np.where(np.isfinite(error), error, np.inf)
            bound = np.where(np.isfinite(b), tolerance.atol + tolerance.rtol * np.abs(b), 0.0)
            differs = error > bound
    size = np.abs(reference.astype(np.float64))
    relative = np.divide(error, size, out=np.zeros_like(error), where=np.isfinite(size) & (size > 0))
    return Difference(
        worst_abs=float(error.max(initial=0.0)),
        worst_rel=float(relative.max(initial=0.0)),
        differing=int(differs.sum()),
        elements=int(reference.size),
    )

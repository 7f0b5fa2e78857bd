"""Whether a new version's vectors still live in the space of stable's, where clients keep vectors of stable's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.errors import EmbeddingMoved
from model_release.parity.report import EmbeddingReport
from model_release.parity.tally import cosines
from model_release.spec import Embedding

#: Samples that are compared, each with each other; and how many are generated where the user gives none.
MOST_SAMPLES, GENERATED = 2000, 256
#: Similarities this close are a tie, and either neighbour is right.
_TIE = 1e-6

Array = npt.NDArray[Any]


def compare_spaces(
    asked: Embedding, output: str, this: Array, other: Array, *, against: str, generated: bool = False
) -> EmbeddingReport:
    """
    Compare two versions' vectors [n, dimension] of the same samples.

    Agreement is the mean share of each sample's nearest neighbours by cosine, itself excluded, that the other version
    has among its own; a vector that is not finite is no vector and moves the space.
    """
    a, b = (vectors.reshape(len(vectors), -1).astype(np.float64) for vectors in (this, other))
    found: dict[str, float | None] = dict.fromkeys(
        ("cosine_min", "cosine_p01", "cosine_mean", "neighbour_agreement"), None
    )
    count = min(asked.neighbours, len(a) - 1)
    if a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all():
        cosine = cosines(a, b)
        found = {
            "cosine_min": float(cosine.min()),
            # The largest value that 99 % of the cosines reach.
            "cosine_p01": float(np.sort(cosine)[len(cosine) // 100]),
            "cosine_mean": float(cosine.mean()),
            "neighbour_agreement": neighbour_agreement(a, b, count),
        }
    p01, agreement = found["cosine_p01"], found["neighbour_agreement"]
    same = p01 is not None and p01 >= asked.min_cosine
    same = same and agreement is not None and agreement >= asked.min_neighbour_agreement
    return EmbeddingReport(
        output=output,
        against=against,
        samples=len(a),
        generated=generated,
        dimension=a.shape[1],
        other_dimension=b.shape[1],
        **found,
        min_cosine=asked.min_cosine,
        neighbours=count,
        min_neighbour_agreement=asked.min_neighbour_agreement,
        same_space=same,
        required=asked.same_space == "required",
    )


def neighbour_agreement(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], count: int) -> float:
    """Return the mean share of the `count` nearest neighbours in `a` that are among those in `b`; 1 without any."""
    if count < 1:
        return 1.0
    similar, other = (_similarities(vectors) for vectors in (a, b))
    nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
    least = np.partition(other, -count, axis=1)[:, -count]
    agreed = np.take_along_axis(other, nearest, axis=1) >= least[:, None] - _TIE
    return float(agreed.mean())


def _similarities(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the cosine of each vector with each other, and -infinity with itself."""
    sizes = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors / np.maximum(sizes, np.finfo(np.float64).tiny)
    norms = np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    unit = (scaled / norms).astype(np.float32)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return np.asarray(similar)


def failure_of(model: str, report: EmbeddingReport) -> EmbeddingMoved | None:
    """Return the error where it must be the same space and is not."""
    if report.same_space or not report.required:
        return None
    if report.cosine_p01 is None or report.neighbour_agreement is None:
        if report.dimension != report.other_dimension:
            why = f"they have {report.dimension} dimensions, those of {report.against} {report.other_dimension}"
        else:
            why = "some of them hold NaN or infinities"
        return EmbeddingMoved(model, why)
    why = (
        f"on {report.samples} samples, 99 % of the cosines with {report.against} are at least {report.cosine_p01:.4f} "
        f"(allowed {report.min_cosine:.4f}), and {report.neighbour_agreement:.3f} of the {report.neighbours} nearest "
        f"neighbours are the same (allowed {report.min_neighbour_agreement:.3f})"
    )
    return EmbeddingMoved(model, why)

"""What all comparisons of one output found together, kept in little memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.parity.cases import Case
from model_release.parity.compare import Judged, judge, ulps
from model_release.parity.histogram import LogCounts
from model_release.parity.report import AtBatchSize, Histogram, OutputParity, Worst
from model_release.spec import Tensor, Tolerance

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_WORST_CASES = 5
_MOST_LETTERS = 200
#: Elements that are judged at a time: judging takes some 60 bytes for each.
_CHUNK = 2**20
#: Stands in for a bound of 0, so that among elements that may not differ at all the largest error is the worst.
_NO_BOUND = 1e-150


@dataclass(frozen=True)
class WorstSample:
    """The sample with an output's worst element, and both answers, each with a batch axis of 1."""

    score: float
    inputs: Arrays
    reference: Array
    answer: Array


class Tally:
    """One output by one execution provider, over all cases."""

    def __init__(self, tensor: Tensor, provider: str, tolerance: Tolerance) -> None:
        self.tensor, self.provider, self.tolerance = tensor, provider, tolerance
        self.sample: WorstSample | None = None
        self.first_non_finite: Worst | None = None
        self._errors, self._ulps = LogCounts(), LogCounts()
        self._sizes: dict[int, AtBatchSize] = {}
        self._worst: list[tuple[float, Worst]] = []
        self._max_rel = 0.0
        self._cosine_min: float | None = None
        self._agreed = self._ranked = 0
        self._reference_non_finite = self._new_non_finite = self._non_finite = 0

    def add(self, case: Case, answer: Array, reference: Array) -> None:
        """Compare the answers of one case, which have the same shape and dtype."""
        rows = max(1, _CHUNK // max(1, reference[:1].size))
        for start in range(0, len(reference), rows):
            part = slice(start, start + rows)
            self._add(case, start, answer[part], reference[part])

    def _add(self, case: Case, start: int, answer: Array, reference: Array) -> None:
        judged = judge(answer, reference, self.tolerance)
        finite = np.isfinite(judged.error)
        if reference.dtype.kind == "f":
            both = np.isfinite(answer) & np.isfinite(reference)
            self._ulps.add(ulps(answer[both], reference[both]))
            self._reference_non_finite += int((~np.isfinite(reference)).sum())
            self._new_non_finite += int((np.isfinite(reference) & ~np.isfinite(answer)).sum())
            self._add_vectors(answer, reference)
        else:
            both = np.ones(reference.shape, np.bool_)
        self._non_finite += int((~finite).sum())
        self._errors.add(judged.error[both])
        self._add_relative(judged.error[both], reference[both])
        self._add_size(case.size, judged, finite)
        self._add_worst(case, start, answer, reference, judged)

    def _add_relative(self, error: Array, reference: Array) -> None:
        if reference.dtype.kind == "U":
            return
        size = np.abs(reference.astype(np.float64))
        with np.errstate(over="ignore"):
            relative = np.divide(error, size, out=np.zeros_like(error), where=size > 0)
        self._max_rel = max(self._max_rel, float(relative.max(initial=0.0)))

    def _add_size(self, size: int, judged: Judged, finite: Array) -> None:
        before = self._sizes.get(size, AtBatchSize(batch_size=size, elements=0, differing=0, max_abs=0.0))
        self._sizes[size] = AtBatchSize(
            batch_size=size,
            elements=before.elements + int(finite.size),
            differing=before.differing + int(judged.differs.sum()),
            max_abs=max(before.max_abs, float(judged.error[finite].max(initial=0.0))),
        )

    def _add_vectors(self, answer: Array, reference: Array) -> None:
        """Compare samples as vectors: their angle, and the place of the largest value."""
        a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (answer, reference))
        if a.shape[1] < 2:
            return
        finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        if finite.any():
            lowest = float(cosines(a[finite], b[finite]).min())
            self._cosine_min = lowest if self._cosine_min is None else min(self._cosine_min, lowest)
        if reference.ndim == 2:
            self._ranked += len(a)
            self._agreed += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())

    def _add_worst(self, case: Case, start: int, answer: Array, reference: Array, judged: Judged) -> None:
        if not reference.size:
            return
        with np.errstate(over="ignore"):
            score = (judged.error / np.maximum(judged.bound, _NO_BOUND)).reshape(len(reference), -1)
        elements = score.argmax(axis=1)
        scores = score[np.arange(len(score)), elements]
        for row in np.argsort(-scores, kind="stable")[:_WORST_CASES]:
            if scores[row] == 0:
                break
            index = np.unravel_index(int(elements[row]), reference.shape[1:]) if reference.ndim > 1 else ()
            at = (int(row), *(int(place) for place in index))
            self._offer(float(scores[row]), self._described(case, start, at, answer, reference, judged))
            if self.sample is None or scores[row] > self.sample.score:
                place = start + int(row)
                inputs = {name: array[place : place + 1].copy() for name, array in case.inputs.items()}
                one = slice(int(row), int(row) + 1)
                self.sample = WorstSample(float(scores[row]), inputs, reference[one].copy(), answer[one].copy())

    def _described(
        self, case: Case, start: int, at: tuple[int, ...], answer: Array, reference: Array, judged: Judged
    ) -> Worst:
        error, bound = float(judged.error[at]), float(judged.bound[at])
        value, expected = _number(answer[at]), _number(reference[at])
        worst = Worst(
            case=case.labels[start + at[0]],
            batch_size=case.size,
            place=start + at[0],
            index=list(at[1:]),
            reference=_finite(expected),
            answer=_finite(value),
            abs_error=_finite(error),
            ratio=_finite(error / bound) if bound > 0 else None,
            reference_text=_text(reference[at]),
            answer_text=_text(answer[at]),
        )
        if self.first_non_finite is None and not np.isfinite(error):
            self.first_non_finite = worst
        return worst

    def _offer(self, score: float, worst: Worst) -> None:
        """Keep the worst element of each of the worst cases."""
        known = [kept for kept in self._worst if kept[1].case == worst.case]
        if known and known[0][0] >= score:
            return
        kept = [entry for entry in self._worst if entry[1].case != worst.case]
        self._worst = sorted([*kept, (score, worst)], key=lambda entry: -entry[0])[:_WORST_CASES]

    def result(self) -> OutputParity:
        """Return what was found."""
        edges, counts = self._errors.shown()
        floats = self.tensor.dtype.startswith("float")
        return OutputParity(
            output=self.tensor.name,
            dtype=self.tensor.dtype,
            provider=self.provider,
            atol=self.tolerance.atol,
            rtol=self.tolerance.rtol,
            elements=sum(size.elements for size in self._sizes.values()),
            differing=sum(size.differing for size in self._sizes.values()),
            max_abs=self._errors.max,
            quantiles_abs={name: self._errors.quantile(share) for name, share in _QUANTILES.items()},
            max_rel=min(self._max_rel, float(np.finfo(np.float64).max)),
            max_ulps=self._ulps.max if floats else None,
            p99_ulps=self._ulps.quantile(0.99) if floats else None,
            cosine_min=self._cosine_min,
            top1_agreement=self._agreed / self._ranked if self._ranked else None,
            reference_non_finite=self._reference_non_finite,
            new_non_finite=self._new_non_finite,
            by_batch_size=[self._sizes[size] for size in sorted(self._sizes)],
            histogram=Histogram(edges=edges, counts=counts, zeros=self._errors.zeros, non_finite=self._non_finite),
            worst=self._worst[0][1] if self._worst else None,
            worst_cases=[worst for _, worst in self._worst],
        )


def cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cosine between each row of `a` and that of `b`, both finite; 1 for two rows of zeros, 0 for one."""
    # Squares of large values overflow, those of small ones vanish.
    a, b = (rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny) for rows in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    found[~a.any(axis=1) & ~b.any(axis=1)] = 1.0
    return np.asarray(np.clip(found, -1.0, 1.0))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _number(value: Any) -> float:
    """Return a value as float64; a text has none."""
    return float("nan") if value.dtype.kind == "U" else float(value)


def _text(value: Any) -> str:
    if value.dtype.kind == "U":
        return str(value)[:_MOST_LETTERS]
    return str(value.item()) if value.dtype.kind in "iub" else f"{float(value):.9g}"

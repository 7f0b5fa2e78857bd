"""The arithmetic of comparing: bounds, distances in ULPs, angles, and statistics of many values in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_release.parity import tally as tallies
from model_release.parity.cases import Case
from model_release.parity.compare import compare, ulps
from model_release.parity.histogram import LogCounts
from model_release.parity.tally import Tally, cosines
from model_release.spec import Tensor, Tolerance

NUMBERS = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=8)
TOLERANCE = Tolerance(atol=1e-4, rtol=1e-3)
EXACT = Tolerance(atol=0, rtol=0)


@given(NUMBERS)
def test_an_array_equals_itself_whatever_it_holds(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    found = compare(array, array.copy(), TOLERANCE)
    assert (found.differing, found.worst_abs) == (0, 0.0)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1e30), (1e30, np.inf), (np.nan, np.inf), (1.0012, 1.0)],
)
def test_values_that_are_not_equal_differ(answer: float, reference: float) -> None:
    found = compare(np.array([answer, 0.0]), np.array([reference, 0.0]), TOLERANCE)
    assert found.differing == 1
    assert found.worst_abs > 0


def test_the_bound_is_absolute_near_zero_and_relative_far_from_it() -> None:
    reference = np.array([0.0, 1000.0])
    assert compare(reference + np.array([0.99e-4, 1.0]), reference, TOLERANCE).differing == 0
    assert compare(reference + np.array([1.01e-4, 1.01]), reference, TOLERANCE).differing == 2


def test_a_relative_tolerance_of_any_size_does_not_cover_infinity() -> None:
    wide = Tolerance(atol=1e308, rtol=1e10)
    assert compare(np.array([1e308]), np.array([np.inf]), wide).differing == 1
    assert compare(np.array([np.inf]), np.array([1e308]), wide).differing == 1


@pytest.mark.parametrize(
    ("dtype", "answer", "reference", "distance"),
    [
        (np.int64, 2**60 + 1, 2**60, 1),
        (np.int64, 2**63 - 1, -(2**63), 2**64 - 1),
        (np.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (np.uint64, 2**64 - 1, 0, 2**64 - 1),
        (np.uint8, 0, 255, 255),
        (np.int8, -128, 127, 255),
        (np.bool_, True, False, 1),
    ],
)
def test_whole_numbers_have_exact_distances(dtype: Any, answer: int, reference: int, distance: int) -> None:
    found = compare(np.array([answer, 1], dtype), np.array([reference, 1], dtype), EXACT)
    assert (found.differing, found.worst_abs) == (1, float(distance))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulps_count_the_floats_between(dtype: Any) -> None:
    one = np.array([1.0, 0.0, -1.0, 5.0], dtype)
    above = np.nextafter(one, dtype(np.inf))
    assert ulps(above, one).tolist() == [1, 1, 1, 1]
    assert ulps(np.nextafter(above, dtype(np.inf)), one).tolist() == [2, 2, 2, 2]
    assert ulps(np.array([-0.0], dtype), np.array([0.0], dtype)).tolist() == [0]
    limits = np.finfo(dtype)
    whole = {2: 2**16, 4: 2**32, 8: 2**64}[dtype().itemsize]
    assert 0.9 * whole < ulps(np.array([limits.max]), np.array([limits.min]))[0] <= whole


@given(st.lists(st.floats(1e-40, 1e38), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_quantiles_are_at_most_four_percent_above_the_exact_ones(values: list[float], share: float) -> None:
    counts = LogCounts()
    counts.add(np.array(values))
    counts.add(np.zeros(len(values)))
    exact = float(np.quantile([*values, *[0.0] * len(values)], share, method="inverted_cdf"))
    found = counts.quantile(share)
    assert exact <= found * (1 + 1e-12)
    assert found <= exact * 1.04
    edges, shown = counts.shown()
    assert sum(shown) == len(values)
    assert len(edges) == len(shown) + 1
    assert edges[0] <= min(values) * (1 + 1e-9)
    assert edges[-1] * (1 + 1e-9) >= max(values)
    assert (counts.zeros, counts.max) == (len(values), max(values))


def test_values_outside_of_the_scale_are_still_counted() -> None:
    counts = LogCounts()
    counts.add(np.array([1e-300, 1e300]))
    assert sum(counts.shown()[1]) == counts.total == 2
    assert counts.max == 1e300


def test_cosines_hold_for_zeros_and_for_the_ends_of_float64() -> None:
    a = np.array([[1.0, 0], [1e300, 1e300], [1e-300, 0], [0, 0], [0, 0], [1, 1]])
    b = np.array([[0, 1.0], [1e300, 1e300], [1e-300, 0], [0, 0], [1, 0], [-1, -1]])
    np.testing.assert_allclose(cosines(a, b), [0, 1, 1, 1, 0, -1], atol=1e-12)


# --- the tally ----------------------------------------------------------------------------------


def tallied(answer: Any, reference: Any, dtype: str = "float32", tolerance: Tolerance = TOLERANCE) -> Any:
    answer, reference = np.asarray(answer, dtype), np.asarray(reference, dtype)
    made = Tally(Tensor(name="y", dtype=dtype, shape=list("ab")[: reference.ndim - 1]), "cpu", tolerance)
    labels = [f"row {place}" for place in range(len(reference))]
    made.add(Case("a case", {"x": np.arange(len(reference))[:, None]}, labels), answer, reference)
    return made


def test_chunks_find_what_one_piece_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(50, 7)).astype(np.float32)
    answer = reference + random.normal(size=(50, 7)).astype(np.float32) * 1e-3
    answer[13, 2] = np.nan
    whole = tallied(answer, reference)
    monkeypatch.setattr(tallies, "_CHUNK", 20)
    parts = tallied(answer, reference)
    assert parts.result() == whole.result()
    assert parts.sample.inputs["x"].tolist() == whole.sample.inputs["x"].tolist() == [[13]]


def test_the_worst_is_the_furthest_beyond_its_bound_not_the_largest_error() -> None:
    reference = np.array([[1000.0, 0.0], [1.0, 1.0]])
    answer = np.array([[1000.9, 0.0], [1.0, 1.05]])
    found = tallied(answer, reference).result()
    assert (found.worst.case, found.worst.index, found.differing) == ("row 1", [1], 1)
    assert found.max_abs == pytest.approx(0.9, rel=1e-3)
    assert found.worst.ratio == pytest.approx(0.05 / 1.1e-3, rel=1e-3)
    assert [worst.case for worst in found.worst_cases] == ["row 1", "row 0"]


def test_the_worst_of_whole_numbers_is_the_largest_error() -> None:
    found = tallied([[1, 2], [9, 2]], [[1, 3], [1, 2]], "int64", EXACT).result()
    worst = found.worst
    assert (worst.case, worst.abs_error, worst.ratio, worst.answer_text) == ("row 1", 8, None, "9")
    assert (found.differing, found.max_ulps, found.cosine_min, found.top1_agreement) == (2, None, None, None)


def test_top1_cosine_and_relative_error_are_over_samples() -> None:
    reference = [[1, 2, 3], [3, 2, 1], [1, 3, 2], [0, 0, 1]]
    answer = [[1, 2, 3], [2, 3, 1], [1, 3, 2], [0, 0, 1]]
    found = tallied(answer, reference).result()
    assert found.top1_agreement == 0.75
    assert found.cosine_min == pytest.approx(13 / 14)
    assert found.max_rel == pytest.approx(0.5)
    assert tallied([[[1.0, 2]]], [[[1.0, 2]]]).result().top1_agreement is None


def test_only_the_worst_cases_are_kept() -> None:
    reference = np.zeros((40, 2))
    answer = np.arange(80).reshape(40, 2) / 10
    made = tallied(answer, reference)
    assert [worst.case for worst in made.result().worst_cases] == [f"row {place}" for place in range(39, 34, -1)]
    assert made.sample.answer.tolist() == [[np.float32(7.8), np.float32(7.9)]]


def test_an_output_without_elements_is_no_crash() -> None:
    found = tallied(np.zeros((3, 0)), np.zeros((3, 0))).result()
    assert (found.elements, found.worst, found.cosine_min) == (0, None, None)

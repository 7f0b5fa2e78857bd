"""Medians and their intervals."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from model_release.benchmark import intervals
from model_release.benchmark.intervals import CONFIDENCE, interval, ratio


def test_the_table_is_students_t() -> None:
    for freedom, value in enumerate(intervals._T, 1):
        assert value == pytest.approx(stats.t.ppf(CONFIDENCE, freedom), abs=1e-3)


def test_one_value_has_no_bounds() -> None:
    assert (interval([3.0]).median, interval([3.0]).low, ratio([3.0], [1.0, 2.0]).low) == (3.0, None, None)


def test_equal_values_leave_no_doubt() -> None:
    assert interval([2.0, 2.0, 2.0]).high == pytest.approx(2.0)
    assert ratio([4.0, 4.0], [2.0, 2.0]).low == pytest.approx(2.0)


def test_the_bounds_hold_the_median_even_beside_an_outlier() -> None:
    found = interval([1.0, 1.0, 1.0, 1.0, 100.0])

    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.median <= found.high


@pytest.mark.parametrize("repeats", [2, 3, 4, 5, 6, 8, 12])
def test_a_bound_is_wrong_at_most_about_once_in_twenty_times(repeats: int) -> None:
    draw = random.Random(1)
    wrong = wrong_ratio = 0
    for _ in range(2000):
        one, other = ([10 * math.exp(draw.gauss(0, 0.2)) for _ in range(repeats)] for _ in range(2))
        wrong += (interval(one).high or 0) < 10
        wrong_ratio += (ratio(one, other).low or 0) > 1
    assert 15 < wrong < 150
    assert 15 < wrong_ratio < 150


def test_from_eight_repeats_on_one_outlier_moves_no_bound() -> None:
    assert interval([1.0] * 7 + [100.0]).high == 1.0
    assert (interval([1.0] * 4 + [100.0]).high or 0) == 100.0


def test_a_rate_of_zero_has_no_bounds() -> None:
    assert interval([0.0, 1.0]).low is None
    assert ratio([0.0, 1.0], [1.0, 1.0]).low is None


def test_it_reads_as_people_write_it() -> None:
    assert str(interval([2.0, 2.0])) == "2.00 (2.00 to 2.00)"
    assert str(interval([2.0])) == "2.00"

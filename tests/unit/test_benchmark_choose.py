"""Which candidate wins, and when none does."""

from __future__ import annotations

from typing import Any

import pytest

from model_release.benchmark.choose import choose, slowdown
from model_release.errors import ObjectiveNotMet
from model_release.triton.config import Tuning


def row(tuning: Tuning, throughput: float, p99_ms: float, concurrency: int = 8, **more: Any) -> dict[str, Any]:
    measured = {"throughput_per_s": throughput, "p99_ms": p99_ms, "concurrency": concurrency}
    return {"tuning": tuning.to_dict(), **measured, **more}


SIMPLE, WAITING, DOUBLE = Tuning(0), Tuning(2000), Tuning(0, (), 2)


def test_the_highest_throughput_wins() -> None:
    assert choose("m", [row(SIMPLE, 100, 5), row(WAITING, 300, 9)], 50)[0] == WAITING


def test_a_level_that_misses_the_objective_does_not_count() -> None:
    rows = [row(SIMPLE, 100, 5), row(WAITING, 300, 51), row(WAITING, 90, 9, concurrency=1)]

    chosen, best = choose("m", rows, 50)

    assert (chosen, best["throughput_per_s"]) == (SIMPLE, 100)


def test_the_objective_itself_is_allowed() -> None:
    assert choose("m", [row(SIMPLE, 100, 50)], 50)[0] == SIMPLE


@pytest.mark.parametrize("order", [1, -1])
def test_within_noise_the_simpler_one_wins(order: int) -> None:
    rows = [row(DOUBLE, 108, 5), row(WAITING, 105, 5), row(SIMPLE, 100, 5)][::order]

    assert choose("m", rows, 50)[0] == SIMPLE


def test_beyond_noise_the_faster_one_wins() -> None:
    assert choose("m", [row(DOUBLE, 112, 5), row(SIMPLE, 100, 5)], 50)[0] == DOUBLE


def test_repeats_that_spread_widen_the_noise() -> None:
    assert choose("m", [row(DOUBLE, 130, 5, spread=0.3), row(SIMPLE, 100, 5)], 50)[0] == SIMPLE


def test_when_none_meets_the_objective_the_best_of_each_is_told() -> None:
    rows = [row(SIMPLE, 100, 80), row(SIMPLE, 50, 60.25, concurrency=1), row(DOUBLE, 100, 70)]

    with pytest.raises(ObjectiveNotMet) as caught:
        choose("m", rows, 50)

    assert "at most 50 ms, measured 60.2 ms at concurrency 1 (delay 0 us, 1 instance)" in str(caught.value)
    assert "70.0 ms at concurrency 8 (delay 0 us, 2 instances)" in str(caught.value)
    assert "80.0" not in str(caught.value)


def test_slowdown_is_the_median_over_the_shared_concurrencies() -> None:
    candidate = [row(SIMPLE, 100, 1, concurrency=c) for c in (1, 8, 32)]
    stable = [row(SIMPLE, t, 1, concurrency=c) for c, t in ((1, 90), (8, 150), (32, 1000), (64, 1))]

    assert slowdown(candidate, stable) == 1.5


def test_without_a_shared_concurrency_there_is_no_slowdown() -> None:
    assert slowdown([row(SIMPLE, 100, 1, concurrency=1)], [row(SIMPLE, 100, 1, concurrency=2)]) is None
    assert slowdown([], []) is None

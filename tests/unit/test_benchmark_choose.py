"""Which candidate wins, when that is settled, and when none does."""

from __future__ import annotations

import pytest

from model_release.benchmark.choose import decide
from model_release.benchmark.contender import Contender
from model_release.triton.config import Tuning
from tests.unit.played_bench import played_run

SIMPLE, WAITING, DOUBLE = Tuning(0), Tuning(2000), Tuning(0, (), 2)


def contender(
    tuning: Tuning, throughput: float, p99_ms: float = 5, repeats: int = 5, spread: float = 0.01
) -> Contender:
    """Return one whose repeats lie around the given numbers, by factors of up to 1 + spread."""
    factors = [1 + spread * (-1) ** number for number in range(repeats - 1)] + [1.0]
    return Contender(tuning, [8], {8: [played_run(throughput * factor, p99_ms * factor) for factor in factors]})


def chosen(*contenders: Contender, objective: float = 50) -> Tuning | None:
    decision = decide(contenders, objective)
    return None if decision is None else decision.chosen.tuning


def test_the_highest_throughput_wins() -> None:
    assert chosen(contender(SIMPLE, 100), contender(WAITING, 300)) == WAITING


def test_one_that_misses_the_objective_does_not_count() -> None:
    assert chosen(contender(SIMPLE, 100), contender(WAITING, 300, p99_ms=55)) == SIMPLE


def test_a_median_that_meets_the_objective_is_not_enough_where_the_repeats_leave_doubt() -> None:
    doubtful = contender(WAITING, 300, p99_ms=45, spread=0.3)

    assert doubtful.p99_ms.median < 50
    assert chosen(contender(SIMPLE, 100), doubtful) == SIMPLE


def test_one_run_shows_nothing_with_confidence() -> None:
    assert chosen(contender(SIMPLE, 100, repeats=1)) is None


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_hardly_faster_ties_and_the_simpler_one_wins(order: int) -> None:
    contenders = [contender(DOUBLE, 103), contender(WAITING, 102), contender(SIMPLE, 100)][::order]

    assert chosen(*contenders) == SIMPLE


def test_repeats_that_spread_make_no_tie() -> None:
    assert chosen(contender(DOUBLE, 130, spread=0.4), contender(SIMPLE, 100, spread=0.4)) == DOUBLE
    assert chosen(contender(DOUBLE, 130), contender(SIMPLE, 100)) == DOUBLE


def test_a_clear_winner_settles_it() -> None:
    decision = decide([contender(WAITING, 300), contender(SIMPLE, 100)], 50)

    assert decision is not None
    assert decision.settled


def test_a_choice_that_noise_leaves_open_is_not_settled() -> None:
    decision = decide([contender(DOUBLE, 130, spread=0.4), contender(SIMPLE, 100, spread=0.4)], 50)

    assert decision is not None
    assert not decision.settled


def test_a_rival_that_might_still_meet_the_objective_is_not_settled() -> None:
    doubtful = contender(WAITING, 300, p99_ms=45, spread=0.3)
    decision = decide([contender(SIMPLE, 100), doubtful], 50)

    assert decision is not None
    assert not decision.settled


def test_when_none_meets_the_objective_there_is_no_decision() -> None:
    assert chosen(contender(SIMPLE, 100, p99_ms=80), contender(DOUBLE, 100, p99_ms=70)) is None
    assert decide([], 50) is None

"""The search: what is measured, in which order, for how long, and how near it comes to the best."""

from __future__ import annotations

import itertools

import pytest

from model_release.benchmark.search import MOST_RUNS, Found, Search
from model_release.triton.config import Tuning
from tests.unit.played_bench import PlayedBench, Serves

LEVELS = [1, 8, 32]
GRID = [
    Tuning(delay, (), instances, None, threads)
    for delay, instances, threads in itertools.product([0, 500, 2000, 5000], [1, 2, 4], [1, 2])
]


def by_delay(*throughputs: float) -> Serves:
    """Serve by the place of the delay among 0, 1, 2, ... ms; each level is twice the one before, and twice as slow."""
    return lambda tuning, level: (throughputs[tuning.max_queue_delay_microseconds // 1000] * level, 2.0 * level)


def hilly(tuning: Tuning, level: int) -> tuple[float, float]:
    """Serve best with a delay of 500 us, two instances and one thread, which do not add up one by one."""
    peak = 900 - abs(tuning.max_queue_delay_microseconds - 500) / 20
    peak *= {1: 0.7, 2: 1.0, 4: 0.6}[tuning.instance_count]
    if tuning.instance_count > 1 and tuning.intra_op_thread_count == 2:
        peak *= 0.5
    rate = peak * level / (level + 4)
    return rate, 1000 * level / rate * 2


def search(bench: PlayedBench, tunings: list[Tuning], budget_s: float = 120, objective: float = 500) -> Found:
    return Search(bench, LEVELS, objective, budget_s, bench.clock).run(tunings)


def test_the_best_is_found_and_settled_long_before_the_budget() -> None:
    bench = PlayedBench(by_delay(100, 300, 200), noise=0.02)
    found = search(bench, [Tuning(0), Tuning(1000), Tuning(2000)])

    assert found.decision is not None
    assert (found.decision.chosen.tuning, found.decision.settled, found.not_tried) == (Tuning(1000), True, [])
    assert bench.now_s < 60


def test_a_candidate_is_judged_at_the_highest_level_that_may_meet_the_objective() -> None:
    bench = PlayedBench(by_delay(100), noise=0.02)
    found = search(bench, [Tuning(0)], objective=20)

    assert found.decision is not None
    assert found.decision.chosen.level == 8
    assert [level for _, level, _ in bench.runs][:2] == [32, 8]


def test_a_candidate_far_behind_the_best_gets_no_second_look() -> None:
    bench = PlayedBench(lambda tuning, level: (10.0, 900.0) if tuning.instance_count == 4 else (1000.0 * level, 5.0))
    search(bench, [Tuning(0), Tuning(0, (), 4)])

    assert [level for tuning, level, _ in bench.runs if tuning.instance_count == 4] == [32]


def test_finalists_are_measured_by_turns_and_the_loaded_one_begins() -> None:
    bench = PlayedBench(by_delay(100, 103), noise=0.05)
    search(bench, [Tuning(0), Tuning(1000)])

    turns = [tuning.max_queue_delay_microseconds for tuning, _ in itertools.groupby(bench.runs, lambda run: run[0])]
    assert turns == [0, 1000] * (len(turns) // 2) + [0] * (len(turns) % 2)
    assert len(bench.applied) == len(turns)


def test_what_the_server_has_already_is_not_brought_onto_it_again() -> None:
    bench = PlayedBench(by_delay(100))
    bench.loaded = Tuning(0)
    Search(bench, LEVELS, 500, 60, bench.clock, serving=Tuning(0)).run([Tuning(0)])

    assert bench.applied == []


def test_a_narrow_budget_tells_what_was_not_tried() -> None:
    bench = PlayedBench(by_delay(*[100] * 9))
    found = search(bench, [Tuning(1000 * number) for number in range(9)], budget_s=16)

    assert found.decision is not None
    assert 0 < len(found.not_tried) < 9
    assert bench.now_s <= 16 + 2


def test_even_without_a_budget_one_candidate_is_measured_with_confidence() -> None:
    bench = PlayedBench(by_delay(100, 200))
    found = search(bench, [Tuning(0), Tuning(1000)], budget_s=0.1)

    assert found.decision is not None
    assert (found.decision.chosen.tuning, found.not_tried) == (Tuning(0), [Tuning(1000)])


def test_none_that_meets_the_objective_is_no_decision_after_more_than_one_run() -> None:
    bench = PlayedBench(by_delay(100, 200), noise=0.02)
    found = search(bench, [Tuning(0), Tuning(1000)], objective=1)

    assert found.decision is None
    assert all(len(each.runs[1]) > 1 for each in found.contenders)


def test_a_single_run_by_a_pause_of_the_machine_refutes_nothing() -> None:
    paused = iter([9.0] * 3)
    bench = PlayedBench(lambda _, level: (100.0 * level, 2.0 * next(paused, 1.0)), noise=0.02)
    found = search(bench, [Tuning(0)], objective=3)

    assert found.decision is not None


def test_repeats_end_where_noise_hides_every_difference() -> None:
    bench = PlayedBench(by_delay(100, 104, 108), noise=0.3)
    found = search(bench, [Tuning(0), Tuning(1000), Tuning(2000)], budget_s=1000)

    assert all(len(each.runs[32]) <= MOST_RUNS + 1 for each in found.contenders)
    assert bench.now_s < 300


def test_a_slow_model_gets_runs_that_hold_enough_requests() -> None:
    bench = PlayedBench(by_delay(100, 200))
    bench.least_s = 7.5
    search(bench, [Tuning(0), Tuning(1000)])

    assert {seconds for _, _, seconds in bench.runs} == {7.5}


@pytest.mark.parametrize("seed", range(20))
def test_it_comes_within_five_per_cent_of_brute_force_in_a_quarter_of_its_time(seed: int) -> None:
    """Brute force measures each candidate three times for 3 s at each level, and has no noise here."""
    brute_s = len(GRID) * (2.0 + 3 * 3 * len(LEVELS))
    best = max(hilly(tuning, 32)[0] for tuning in GRID)
    bench = PlayedBench(hilly, noise=0.03, seed=seed)

    found = search(bench, GRID, budget_s=brute_s / 4)

    assert found.decision is not None
    assert found.not_tried == []
    assert bench.now_s <= brute_s / 4
    assert hilly(found.decision.chosen.tuning, 32)[0] >= 0.95 * best

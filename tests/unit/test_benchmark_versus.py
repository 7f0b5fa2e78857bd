"""The candidate against stable's version: by turns, until the interval of the ratio says on which side it is."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable

import pytest

from model_release.benchmark.meter import Run
from model_release.benchmark.versus import MOST_ROUNDS, Comparison, compare
from tests.unit.played_bench import played_run


def playing(candidate: Iterable[float], stable: Iterable[float], in_time: bool = True) -> tuple[Comparison, str]:
    """Compare two rows of throughputs; returns what was found, and in which order they ran."""
    order: list[str] = []

    def runs(of: str, throughputs: Iterable[float]) -> Callable[[], Run]:
        left = iter(throughputs)

        def run() -> Run:
            order.append(of)
            return played_run(next(left))

        return run

    found = compare(8, 1.2, runs("C", candidate), runs("S", stable), lambda: in_time)
    return found, "".join(order)


def test_they_run_by_turns_and_the_one_on_the_server_begins() -> None:
    _, order = playing(itertools.cycle([100, 130]), itertools.cycle([110, 100, 150]))

    assert order.startswith("CSSCCS")


def test_what_is_shown_to_be_as_fast_needs_two_rounds() -> None:
    found, order = playing([100] * 9, [101, 100] * 9)

    assert order == "CSSC"
    assert found.is_fast_enough(1.2)


def test_one_round_is_enough_where_it_leaves_plenty_of_room() -> None:
    found, order = playing([100] * 9, [60] * 9)

    assert order == "CS"
    assert not found.is_slower(1.2)


def test_what_is_shown_to_be_slower_takes_a_third_round() -> None:
    found, order = playing([100] * 9, [200] * 9)

    assert len(order) == 6
    assert found.is_slower(1.2)
    assert not found.is_fast_enough(1.2)


def test_noise_shows_nothing_and_ends_after_some_rounds() -> None:
    found, order = playing(itertools.cycle([100, 200]), itertools.cycle([200, 100]))

    assert len(order) == 2 * MOST_ROUNDS
    assert not found.is_slower(1.2)
    assert not found.is_fast_enough(1.2)


def test_it_ends_when_its_time_is_over() -> None:
    _, order = playing(itertools.cycle([100, 200]), itertools.cycle([200, 100]), in_time=False)

    assert order == "CSSC"


@pytest.mark.parametrize(("truly", "stopped"), [(1.0, (0, 8)), (1.2, (0, 40)), (2.0, (180, 200))])
def test_it_stops_what_is_slower_and_hardly_ever_what_is_not(truly: float, stopped: tuple[int, int]) -> None:
    draw = random.Random(3)

    def noisy(rate: float) -> Iterable[float]:
        return (rate * math.exp(draw.gauss(0, 0.1)) for _ in itertools.count())

    slower = sum(playing(noisy(100), noisy(100 * truly))[0].is_slower(1.2) for _ in range(200))
    assert stopped[0] <= slower <= stopped[1]


def test_a_pause_that_lasts_two_rounds_stops_nothing() -> None:
    found, _ = playing([50, 50, 100, 100, 100, 100], [100] * 9)

    assert not found.is_slower(1.2)


def test_it_is_written_with_both_sides() -> None:
    written = playing([100] * 9, [100] * 9)[0].to_dict()

    assert (written["slowdown"]["median"], written["rounds"], written["concurrency"]) == (1.0, 2, 8)
    assert written["candidate"]["throughput_per_s"] == written["stable"]["throughput_per_s"] == 100

"""How the search fits into its budget."""

from __future__ import annotations

from typing import Any

import pytest

from model_release.benchmark.plan import LEAST_RUN_S, Runs, candidates, next_runs
from model_release.triton.config import Tuning
from tests.unit.served_toys import spec


def searching(own_delay: int = 2000, **search: Any) -> Any:
    return spec(serving={"dynamic_batching": {"max_queue_delay_microseconds": own_delay}}, benchmark={"search": search})


def test_each_value_is_tried_with_each_other_the_simple_first() -> None:
    searched = searching(own_delay=7, max_queue_delay_microseconds=[500, 0], instance_count=[2, 1])

    assert candidates(searched) == [Tuning(0), Tuning(500), Tuning(0, (), 2), Tuning(500, (), 2)]


def test_the_specs_own_tuning_is_tried_first() -> None:
    searched = searching(own_delay=2000, max_queue_delay_microseconds=[0, 2000], instance_count=[1])

    assert candidates(searched) == [Tuning(2000), Tuning(0)]


def test_a_value_named_twice_is_tried_once() -> None:
    assert len(candidates(searching(max_queue_delay_microseconds=[0, 0], instance_count=[1, 1]))) == 1


def test_without_batching_the_instances_alone_are_searched() -> None:
    search = {"max_queue_delay_microseconds": [0, 500], "instance_count": [1, 2]}
    unbatched = spec(serving={"max_batch_size": 0}, benchmark={"search": search})

    assert candidates(unbatched) == [Tuning(0), Tuning(0, (), 2)]


def test_a_wide_budget_repeats() -> None:
    assert next_runs(120, 2, 3, apply_s=3, least_run_s=LEAST_RUN_S) == Runs(19 / 3, 3)


def test_a_narrower_budget_drops_repeats_before_it_shortens_runs() -> None:
    runs = next_runs(40, 3, 3, apply_s=2, least_run_s=LEAST_RUN_S)

    assert runs is not None
    assert runs.repeats == 1
    assert runs.seconds == pytest.approx((40 / 3 - 2) / 3)


def test_runs_are_shortened_to_the_least_before_candidates_are_left_out() -> None:
    assert next_runs(20, 5, 3, apply_s=2, least_run_s=2.0) == Runs(2.0, 1)


def test_a_candidate_that_does_not_fit_any_more_is_left_out() -> None:
    assert next_runs(7.9, 1, 3, apply_s=2, least_run_s=2.0) is None
    assert next_runs(8.0, 1, 3, apply_s=2, least_run_s=2.0) == Runs(2.0, 1)
    assert next_runs(-1, 1, 3, apply_s=2, least_run_s=2.0) is None

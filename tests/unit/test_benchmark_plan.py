"""What is tried, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model_release.benchmark.plan import candidates
from model_release.triton.config import Tuning, build_config
from tests.unit.served_toys import spec


def searching(own_delay: int = 2000, parameters: dict[str, Any] | None = None, **search: Any) -> Any:
    serving = {"dynamic_batching": {"max_queue_delay_microseconds": own_delay}, "parameters": parameters or {}}
    return spec(serving=serving, benchmark={"search": search})


def test_each_value_is_tried_with_each_other_the_simple_first() -> None:
    searched = searching(own_delay=7, max_queue_delay_microseconds=[500, 0], instance_count=[2, 1])

    assert candidates(searched) == [Tuning(0), Tuning(500), Tuning(0, (), 2), Tuning(500, (), 2)]


def test_the_specs_own_tuning_is_tried_first() -> None:
    searched = searching(own_delay=2000, max_queue_delay_microseconds=[0, 2000], instance_count=[1])

    assert candidates(searched) == [Tuning(2000), Tuning(0)]


def test_a_value_named_twice_is_tried_once() -> None:
    assert len(candidates(searching(max_queue_delay_microseconds=[0, 0], instance_count=[1, 1]))) == 1


def test_sizes_and_threads_are_searched_where_they_are_listed() -> None:
    searched = searching(
        own_delay=0,
        parameters={"intra_op_thread_count": 1},
        max_queue_delay_microseconds=[0],
        preferred_batch_size=[[], [8, 16]],
        max_batch_size=[64, 8],
        intra_op_thread_count=[1, 2],
    )

    found = candidates(searched)

    assert found[0] == Tuning.from_spec(searched) == Tuning(0)
    assert Tuning(0, (8, 16), 1, None, 2) in found
    assert not any(tuning.preferred_batch_size and tuning.max_batch_size == 8 for tuning in found)
    assert len(found) == 6


def test_a_tuning_becomes_the_config_that_is_served() -> None:
    config = build_config(spec(), 1, Tuning(0, (), 1, 8, 2))

    assert config.max_batch_size == 8
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert [warm.batch_size for warm in config.model_warmup] == [1, 2, 4, 8]


def test_a_tuning_that_was_sealed_before_is_read() -> None:
    sealed = {"max_queue_delay_microseconds": 500, "preferred_batch_size": [4], "instance_count": 2}

    assert Tuning.from_dict(sealed) == Tuning(500, (4,), 2)


@pytest.mark.parametrize("search", [{"max_batch_size": [65]}, {"preferred_batch_size": [[128]]}])
def test_a_size_that_the_version_is_not_proved_for_is_refused_by_the_spec(search: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"above serving\.max_batch_size 64"):
        searching(**search)


def test_without_batching_instances_and_threads_alone_are_searched() -> None:
    search = {"max_queue_delay_microseconds": [0, 500], "instance_count": [1, 2]}
    unbatched = spec(serving={"max_batch_size": 0}, benchmark={"search": search})

    assert candidates(unbatched) == [Tuning(0), Tuning(0, (), 2)]

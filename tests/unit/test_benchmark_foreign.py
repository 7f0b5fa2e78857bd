"""Somebody else's model: what of its config is searched, and what is sent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_release.benchmark import foreign
from model_release.cli.benchmark import _candidates
from model_release.errors import SamplesUnusable
from model_release.triton.config import Tuning, build_config
from tests.unit.served_toys import spec


def config(**serving: Any) -> Any:
    return build_config(spec(serving={"parameters": {"intra_op_thread_count": 2}, **serving}), 1)


def test_the_served_tuning_is_read_and_written_back() -> None:
    served = config(dynamic_batching={"max_queue_delay_microseconds": 700, "preferred_batch_size": [8]})
    tuning = foreign.tuning_of(served)

    assert tuning == Tuning(700, (8,), 1, 64, 2)
    assert foreign.tuned(served, tuning) == served


def test_a_tuning_changes_what_it_names_and_leaves_the_served_config_alone() -> None:
    served = config()
    before = str(served)
    changed = foreign.tuned(served, Tuning(0, (), 3, 16, 1))

    assert (changed.max_batch_size, changed.instance_group[0].count) == (16, 3)
    assert changed.parameters["intra_op_thread_count"].string_value == "1"
    assert changed.dynamic_batching.max_queue_delay_microseconds == 0
    assert changed.model_warmup == served.model_warmup
    assert str(served) == before


def test_a_model_without_dynamic_batching_gets_it_and_one_without_batches_does_not() -> None:
    served = config()
    served.ClearField("dynamic_batching")

    assert foreign.tuned(served, Tuning(500)).HasField("dynamic_batching")
    assert not foreign.tuned(config(max_batch_size=0), Tuning(500)).HasField("dynamic_batching")


def test_samples_are_generated_for_inputs_of_known_sizes_alone() -> None:
    samples = foreign.generated_samples(config())
    named = spec(
        inputs=[{"name": "ids", "dtype": "int64", "shape": ["seq"]}], dynamic_axes={"seq": {"min": 1, "max": 9}}
    )

    assert samples["input__x"].shape == (16, 3)
    assert samples["input__x"].std() > 0
    with pytest.raises(SamplesUnusable, match="'ids' is text, or of any size: give real ones by --inputs"):
        foreign.generated_samples(build_config(named, 1))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y": np.zeros((2, 3), np.float32)}, "no array 'x', which is an input"),
        ({"x": np.zeros((2, 3))}, "'x' is float64, the input is float32"),
        ({"x": np.zeros((0, 3), np.float32)}, "at least one"),
    ],
)
def test_samples_that_do_not_fit_are_told(arrays: dict[str, Any], problem: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)

    with pytest.raises(SamplesUnusable, match=problem):
        foreign.real_samples(tmp_path / "s.npz", config())


def test_real_samples_are_sent_as_they_are(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "s.npz", x=x, label=np.zeros(2))

    found = foreign.real_samples(tmp_path / "s.npz", config())

    assert list(found) == ["input__x"]
    assert (found["input__x"] == x).all()


def test_each_searched_value_is_tried_with_each_and_the_served_one_first() -> None:
    own = Tuning(500, (), 1, 64, 1)

    found = _candidates(own, [0, 500], [2, 1], None, None)

    assert found[0] == own
    assert set(found) == {Tuning(delay, (), count, 64, 1) for delay in (0, 500) for count in (1, 2)}

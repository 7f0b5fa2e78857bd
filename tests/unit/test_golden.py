"""The golden set on bench: what counts as enough, and what stable's own spec changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_release.errors import AccuracyNotProven, AccuracyTooLow, StableUnusable
from model_release.steps import golden
from tests.unit.served_toys import ENVIRONMENT, spec

COUNT = 400
STABLE = 20260101000000


def right(wrong: int) -> np.ndarray[Any, Any]:
    return np.arange(COUNT) >= wrong


def step_of(folder: Path, **accuracy: Any) -> Any:
    path = folder / "golden.npz"
    np.savez(path, x=np.zeros((COUNT, 3), np.float32), label=np.zeros(COUNT, np.int64))
    made = spec(accuracy={"golden_set": path.as_uri(), **accuracy})
    release = SimpleNamespace(model=made.name, version=STABLE + 1)
    return SimpleNamespace(
        spec=made,
        release=release,
        environment=ENVIRONMENT,
        pair=SimpleNamespace(bench=ENVIRONMENT.pair("default").bench),
    )


def test_as_many_right_answers_as_stable_are_enough_where_the_two_differ_little(tmp_path: Path) -> None:
    found = golden.report(step_of(tmp_path), right(12), (STABLE, right(12)))

    assert (found.accuracy, found.comparisons[0].against) == (0.97, f"stable's version {STABLE}")


def test_a_small_loss_on_few_samples_is_not_proved_though_it_is_within_the_margin(tmp_path: Path) -> None:
    """The point estimates differ by 1.5 points of the 2 that are allowed; the samples do not show that it is so few."""
    step = step_of(tmp_path, margin=0.02)

    with pytest.raises(AccuracyNotProven, match=f"stable's version {STABLE}"):
        golden.report(step, right(12), (STABLE, right(6)))


def test_the_minimum_holds_without_a_stable_version(tmp_path: Path) -> None:
    assert golden.report(step_of(tmp_path, minimum=0.97), right(12)).accuracy == 0.97
    with pytest.raises(AccuracyTooLow, match="on bench"):
        golden.report(step_of(tmp_path, minimum=0.98), right(12))


class Served:
    """A replica whose outputs point at the first and at the second class; notes what it was asked."""

    asked: list[tuple[int, bool]]

    def __init__(self, *_: Any) -> None:
        return

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def infer(self, _: str, inputs: dict[str, Any], *, batching: bool) -> dict[str, Any]:
        count = len(inputs["x"])
        self.asked.append((count, batching))
        first = np.tile(np.float32([1, 0]), (count, 1))
        return {"y": first, "other": first[:, ::-1]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    Served.asked = []
    monkeypatch.setattr(golden, "ReplicaClient", Served)
    return Served.asked


OUTPUTS = [{"name": name, "dtype": "float32", "shape": [2]} for name in ("y", "other")]


def test_a_version_is_judged_by_the_output_that_its_own_spec_names(
    tmp_path: Path, asked: list[tuple[int, bool]]
) -> None:
    step, of = step_of(tmp_path), {"outputs": OUTPUTS}
    accuracy = {"golden_set": "s3://x/y.npz", "output": "other"}

    ours = golden.right_on_bench(step, STABLE, spec(**of))
    theirs = golden.right_on_bench(step, STABLE, spec(**of, accuracy=accuracy))

    assert ours is not None
    assert theirs is not None
    assert (ours.sum(), theirs.sum()) == (COUNT, 0)


@pytest.mark.parametrize(("most", "size"), [(64, 32), (8, 8), (0, 1)])
def test_batches_are_what_the_version_on_bench_takes(
    tmp_path: Path, asked: list[tuple[int, bool]], most: int, size: int
) -> None:
    golden.right_on_bench(step_of(tmp_path), STABLE, spec(serving={"max_batch_size": most}))

    assert asked[0] == (size, most > 0)
    assert sum(count for count, _ in asked) == COUNT


def test_a_stable_version_with_other_inputs_is_named(tmp_path: Path) -> None:
    old = spec(inputs=[{"name": "z", "dtype": "float32", "shape": [3]}])

    with pytest.raises(StableUnusable, match=rf"{STABLE} of toy.*\['z'\]"):
        golden.right_on_bench(step_of(tmp_path), STABLE, old)


def test_without_a_golden_set_nothing_is_asked(asked: list[tuple[int, bool]]) -> None:
    assert golden.right_on_bench(SimpleNamespace(spec=spec()), STABLE, spec()) is None  # type: ignore[arg-type]
    assert asked == []

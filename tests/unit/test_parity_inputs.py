"""Generated inputs stay inside the spec and reach its edges; the user's samples are refused when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_release import parity
from model_release.errors import SamplesUnusable
from model_release.parity import cases
from model_release.parity import samples as sets
from model_release.spec import ModelSpec
from tests.unit import toys

WHOLE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = ["bool", *WHOLE, "float16", "float32", "float64"]


def taking(dtype: str, bounds: list[float] | None = None, shape: list[Any] | None = None, **changes: Any) -> ModelSpec:
    one = {"name": "x", "dtype": dtype, "shape": shape or [3], "range": bounds}
    return toys.spec(inputs=[one], **changes)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_generated_values_keep_range_type_and_never_mask_all(seed: int, seq: int) -> None:
    made = sets.generate(toys.tokens_spec(), 5, seed, {"seq": seq})
    assert {name: (array.dtype, array.shape) for name, array in made.items()} == {
        name: (np.dtype(np.int64), (5, seq)) for name in ("ids", "mask")
    }
    assert made["ids"].min() >= 0
    assert made["ids"].max() <= 9
    assert made["mask"].any(axis=1).all()
    again = sets.generate(toys.tokens_spec(), 5, seed, {"seq": seq})
    assert all(np.array_equal(again[name], made[name]) for name in made)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounds", [None, [-1e300, 1e300], [0.5, 20], [-3, -2]])
def test_every_type_stays_inside_its_range_and_what_it_holds(dtype: str, bounds: list[float] | None) -> None:
    if bounds == [-3, -2] and dtype[0] in "ub":
        return
    made = taking(dtype, bounds if dtype != "bool" else None)
    low, high = sets.bounds_of(made.inputs[0])
    arrays = [sets.generate(made, 50, 1, {})["x"], *(sample["x"] for _, sample in sets.edges(made, {}))]
    for array in arrays:
        assert array.dtype == np.dtype(dtype)
        assert np.isfinite(array).all()
        slack = abs(low) * 1e-3 if dtype == "float16" else 0
        assert array.min().item() >= low - slack
        assert array.max().item() <= high + slack
    if bounds == [-1e300, 1e300] and dtype in ("int64", "uint64"):
        ends = {int(array.flat[0]) for array in arrays[1:]}
        assert {np.iinfo(dtype).min, np.iinfo(dtype).max} <= ends


def test_edges_hold_zero_one_and_both_ends_inside_the_range() -> None:
    edges = dict(sets.edges(taking("float32", [0.5, 20]), {}))
    assert {name: array["x"].tolist() for name, array in edges.items()} == {
        "zeros = all lowest = small numbers": [[0.5] * 3],
        "ones": [[1] * 3],
        "all highest": [[20] * 3],
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_small_numbers_have_squares_that_are_still_normal(dtype: str) -> None:
    small = dict(sets.edges(taking(dtype), {}))["small numbers"]["x"]
    assert (small * small >= np.finfo(dtype).tiny).all()
    assert (small * small <= 4 * np.finfo(dtype).tiny).all()


def test_padding_masks_of_several_lengths_on_either_side_never_all_zero() -> None:
    edges = dict(sets.edges(toys.tokens_spec(), {"seq": 6}))
    masks = {name: "".join(map(str, sample["mask"][0])) for name, sample in edges.items()}
    assert masks == {
        "zeros = all lowest": "111111",
        "ones": "111111",
        "all highest": "111111",
        "1 of 6, padded on the right": "100000",
        "1 of 6, padded on the left": "000001",
        "3 of 6, padded on the right": "111000",
        "3 of 6, padded on the left": "000111",
        "5 of 6, padded on the right": "111110",
        "5 of 6, padded on the left": "011111",
        "values under a mask of half the length": "111000",
    }
    assert edges["1 of 6, padded on the right"]["ids"][0, 1:].tolist() == [0] * 5
    assert edges["values under a mask of half the length"]["ids"][0, 3:].any()


def test_a_mask_of_the_shortest_length_has_no_empty_padding() -> None:
    for length in (1, 2, 3):
        for _, sample in sets.edges(toys.tokens_spec(), {"seq": length}):
            assert sample["mask"].shape == (1, length)
            assert sample["mask"].any()


def test_boolean_flags_are_no_mask_and_may_all_be_false() -> None:
    assert not dict(sets.edges(taking("bool"), {}))["zeros = all lowest"]["x"].any()
    along = taking("bool", shape=["n"], dynamic_axes={"n": {"max": 5}})
    assert all(sample["x"].any() for _, sample in sets.edges(along, {"n": 3}))


# --- the plan -----------------------------------------------------------------------------------


def names(spec: ModelSpec, samples: Any = None) -> list[str]:
    return [case.name for case in cases.plan(spec, samples)]


def test_each_axis_is_tried_at_its_ends_alone_and_with_the_others() -> None:
    spec = toys.spec(
        inputs=[{"name": "x", "dtype": "float32", "shape": ["height", "width"]}],
        dynamic_axes={"height": {"min": 3, "max": 40}, "width": {"min": 5, "max": 50}},
    )
    ends = {case.name: case.inputs["x"].shape[1:] for case in cases.plan(spec, None) if " the " in case.name}
    middle = sets.middle_axes(spec)
    assert ends == {
        "batch size 1: the shortest height": (3, middle["width"]),
        "batch size 1: the shortest width": (middle["height"], 5),
        "batch size 1: the shortest height and width": (3, 5),
        "batch size 1: the longest height": (40, middle["width"]),
        "batch size 1: the longest width": (middle["height"], 50),
        "batch size 1: the longest height and width": (40, 50),
    }


def test_every_case_is_a_batch_of_its_size_with_a_name_for_each_sample() -> None:
    samples = {"ids": np.ones((5, 4), np.int64), "mask": np.ones((5, 4), np.int64)}
    planned = list(cases.plan(toys.tokens_spec(), samples))
    for case in planned:
        assert {len(array) for array in case.inputs.values()} == {case.size}
        assert case.size in (1, 4)
        assert case.name.startswith(f"batch size {case.size}: ")
    assert "batch size 4: sample 4 to 2, from the first on again" in [case.name for case in planned]
    generated = [case for case in planned if case.size == 1 and ": the " not in case.name and "sample" not in case.name]
    assert len(generated) == 6
    edges = {name for name, _ in sets.edges(toys.tokens_spec(), sets.middle_axes(toys.tokens_spec()))}
    assert edges <= {label for case in planned if case.size == 4 for label in case.labels}


def test_the_plan_is_the_same_each_time_and_another_with_another_seed() -> None:
    def planned(seed: int) -> list[Any]:
        spec = toys.spec(parity={"batch_sizes": [1, 4], "seed": seed})
        return [case.inputs["x"].tolist() for case in cases.plan(spec, None)]

    assert planned(1) == planned(1) != planned(2)


def test_probes_differ_and_are_spread_over_a_batch() -> None:
    samples = {"x": np.full((2, 3), 0.5, np.float32)}
    spec = toys.spec()
    probe = cases.probes(spec, samples)
    assert probe.labels[:3] == ["sample 0", "random values", "zeros"]
    assert probe.size == 8
    batch, places = cases.among(spec, probe, 20, {})
    assert len(batch["x"]) == 20
    assert (places[0], places[-1], len(set(places.tolist()))) == (0, 19, 8)
    assert np.array_equal(batch["x"][places], probe.inputs["x"])
    assert cases.probes(toys.spec(serving={"max_batch_size": 4}), None).size == 4


# --- samples ------------------------------------------------------------------------------------

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def load(path: Path, spec: ModelSpec | None = None, with_label: bool = False) -> dict[str, Any]:
    return parity.load_samples(toys.uri(path), spec or toys.spec(), toys.ENVIRONMENT, with_label)


def test_samples_are_read_with_their_label_only_when_asked(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=X, label=np.arange(4))
    assert list(load(tmp_path / "s.npz")) == ["x"]
    assert load(tmp_path / "s.npz", with_label=True)["label"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": X}, r"arrays \['x'\] are missing"),
        ({"x": X, "xx": X}, "array 'xx', which is no input. Did you mean 'x'"),
        ({"x": X.astype(np.float64)}, "'x' is float64, the spec says float32"),
        ({"x": X[:, :2]}, r"'x' has the shape \[4, 2\], the spec says \[samples, 3\]"),
        ({"x": X[:0]}, r"shape \[0, 3\]"),
        ({"x": X, "label": np.arange(3)}, "differ in their number of samples"),
        ({"x": X, "label": np.ones(4)}, "one whole number a sample"),
        ({"x": X}, r"\['label'\] are missing"),
        ({"x": np.array([object()])}, "without executing it"),
    ],
)
def test_samples_that_do_not_fit_say_why(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(SamplesUnusable, match=says):
        load(tmp_path / "s.npz", with_label="label" in str(arrays) or "label" in says)


def test_dynamic_axes_of_samples_keep_their_bounds_and_agree(tmp_path: Path) -> None:
    spec = toys.tokens_spec()
    for ids, mask, says in ((3, 4, "axis 'seq' is 3 in one input and 4"), (13, 13, "allows 2 to 12")):
        np.savez(tmp_path / "s.npz", ids=np.ones((2, ids), np.int64), mask=np.ones((2, mask), np.int64))
        with pytest.raises(SamplesUnusable, match=says):
            load(tmp_path / "s.npz", spec)


def test_absent_and_damaged_samples_are_said(tmp_path: Path) -> None:
    with pytest.raises(SamplesUnusable, match="nothing lies there"):
        load(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", x=X)
    (tmp_path / "s.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:-30])
    with pytest.raises(SamplesUnusable, match=r"no whole \.npz"):
        load(tmp_path / "s.npz")

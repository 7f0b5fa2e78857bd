"""Parity passes what answers equally, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from model_release import parity
from model_release.errors import BatchDependent, ModelRefusesInputs, OnnxUnusable, ParityFailed, SamplesUnusable
from model_release.export import export_onnx
from model_release.parity import samples as sets
from model_release.parity.compare import compare
from model_release.spec import ModelSpec, Tolerance
from tests.unit import toys


def exported(spec: ModelSpec, module: torch.nn.Module, folder: Path) -> Path:
    path = folder / "model.onnx"
    export_onnx(spec, module, path, version=1, source_sha256="0" * 64)
    return path


@pytest.fixture(scope="module")
def linear_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("linear") / "model.onnx"
    path.write_bytes(toys.exported("linear"))
    return path


@pytest.fixture(scope="module")
def tokens_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "model.onnx"
    path.write_bytes(toys.exported("tokens"))
    return path


def test_an_equal_file_is_proved_for_every_output_and_batch_size(tokens_path: Path) -> None:
    report = parity.prove(toys.tokens_spec(), toys.Tokens(), tokens_path, None).to_dict()
    assert {(row["output"], row["batch_size"]) for row in report["rows"]} == {
        (output, size) for output in ("pooled", "states") for size in (1, 4)
    }
    assert all(row["worst_abs"] <= 1e-5 and row["elements"] > 0 for row in report["rows"])
    assert {row["output"] for row in report["batch_independence"]} == {"pooled", "states"}
    assert (report["opset"], report["providers"]) == (20, ["CPUExecutionProvider"])
    assert json.loads(json.dumps(report)) == report


def test_other_weights_fail_with_output_batch_size_and_error(linear_path: Path) -> None:
    module = toys.linear()
    with torch.no_grad():
        module.bias[1] += 0.25
    with pytest.raises(ParityFailed, match=r"output 'y' at batch size 1 differs by 0\.25 \(\d+ of \d+ elements"):
        parity.prove(toys.spec(), module, linear_path, None)


def test_only_real_samples_may_show_the_difference(linear_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return linear(x) + (x.amax(1, keepdim=True) > 50)

    linear = toys.linear()
    parity.prove(toys.spec(), Odd(), linear_path, None)
    samples = {"x": np.ones((40, 3), np.float32)}
    samples["x"][31] = 51
    with pytest.raises(ParityFailed, match="differs by 1"):
        parity.prove(toys.spec(), Odd(), linear_path, samples)


def test_a_batch_size_baked_into_the_file_fails(linear_path: Path, tmp_path: Path) -> None:
    model = onnx.load(str(linear_path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    with pytest.raises(OnnxUnusable, match=r"fails on random values \(batch size 4\)"):
        parity.prove(toys.spec(), toys.linear(), tmp_path / "fixed.onnx", None)


def test_answers_that_depend_on_neighbours_are_refused(tmp_path: Path) -> None:
    path = exported(toys.spec(), toys.Neighbours(), tmp_path)
    with pytest.raises(BatchDependent, match="output 'y' of a sample alone and among 8"):
        parity.prove(toys.spec(), toys.Neighbours(), path, None)


def test_a_file_with_other_names_is_refused(tokens_path: Path) -> None:
    with pytest.raises(OnnxUnusable, match=r"its inputs are \['ids', 'mask'\], the spec says \['x'\]"):
        parity.prove(toys.spec(), toys.linear(), tokens_path, None)


def test_a_damaged_file_is_refused(linear_path: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(linear_path.read_bytes()[:100])
    with pytest.raises(OnnxUnusable, match="does not open it"):
        parity.prove(toys.spec(), toys.linear(), tmp_path / "half.onnx", None)


def test_a_file_that_fails_on_an_input_is_refused(tokens_path: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tokens_path))
    table = next(entry for entry in model.graph.initializer if entry.dims == [10, 4])
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:5], table.name))
    onnx.save(model, str(tmp_path / "short.onnx"))
    with pytest.raises(OnnxUnusable, match="ONNX Runtime fails on"):
        parity.prove(toys.tokens_spec(), toys.Tokens(), tmp_path / "short.onnx", None)


def test_inputs_that_the_model_itself_refuses_point_to_the_spec(tokens_path: Path) -> None:
    spec = toys.tokens_spec()
    wide = spec.inputs[0].model_copy(update={"range": (0, 10)})
    spec = spec.model_copy(update={"inputs": [wide, spec.inputs[1]]})
    with pytest.raises(ModelRefusesInputs, match=r"IndexError.*Correct inputs, ranges"):
        parity.prove(spec, toys.Tokens(), tokens_path, None)


# --- comparing ---------------------------------------------------------------------------------

NUMBERS = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=8)
TOLERANCE = Tolerance(atol=1e-4, rtol=1e-3)


@given(NUMBERS)
def test_an_array_equals_itself_whatever_it_holds(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    found = compare(array, array.copy(), TOLERANCE)
    assert (found.differing, found.worst_abs, found.worst_rel) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1e30), (1e30, np.inf), (np.nan, np.inf), (1.0012, 1.0)],
)
def test_values_that_are_not_equal_differ(answer: float, reference: float) -> None:
    found = compare(np.array([answer, 0.0]), np.array([reference, 0.0]), TOLERANCE)
    assert found.differing == 1
    assert found.worst_abs > 0


def test_the_bound_is_absolute_near_zero_and_relative_far_from_it() -> None:
    reference = np.array([0.0, 1000.0])
    assert compare(reference + np.array([0.99e-4, 1.0]), reference, TOLERANCE).differing == 0
    assert compare(reference + np.array([1.01e-4, 1.01]), reference, TOLERANCE).differing == 2


def test_whole_numbers_must_be_the_very_same() -> None:
    reference = np.array([2**60, 5000], np.int64)
    found = compare(reference + np.array([1, 0]), reference, TOLERANCE)
    assert (found.differing, found.worst_abs) == (1, 1.0)
    assert compare(np.array([True]), np.array([False]), TOLERANCE).differing == 1


# --- generating --------------------------------------------------------------------------------


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


def test_edges_hold_zero_one_and_both_ends_inside_the_range() -> None:
    spec = toys.spec(inputs=[{"name": "x", "dtype": "float32", "shape": [3], "range": [0.5, 20]}])
    assert sets.edges(spec, {})["x"].tolist() == [[0.5] * 3, [1] * 3, [0.5] * 3, [20] * 3]
    assert sets.edges(toys.tokens_spec(), {"seq": 2})["mask"].any(axis=1).all()


# --- samples -----------------------------------------------------------------------------------

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


# --- recording ---------------------------------------------------------------------------------


def test_recorded_answers_are_pytorchs_own_for_the_users_samples_first() -> None:
    module, samples = toys.linear(), {"x": np.random.default_rng(0).random((40, 3), np.float32)}
    recorded = parity.record(toys.spec(), module, samples)
    assert np.array_equal(recorded["input__x"], samples["x"][:32])
    expected = module(torch.from_numpy(samples["x"][:32])).detach().numpy()
    np.testing.assert_allclose(recorded["output__y"], expected, atol=1e-6)


def test_without_samples_generated_ones_are_recorded() -> None:
    recorded = parity.record(toys.tokens_spec(), toys.Tokens(), None)
    assert sorted(recorded) == ["input__ids", "input__mask", "output__pooled", "output__states"]
    assert {len(array) for array in recorded.values()} == {32}

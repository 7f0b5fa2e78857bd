"""Values that are not finite, every type, and shapes: each output is held to PyTorch and to what the spec declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model_release.errors import OnnxUnusable
from model_release.parity.report import ParityReport
from tests.unit.parity_graphs import failures, graph, prove, spec

DOUBLED = "y = Add (x, x)"


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


# --- values that are not finite, and other types ------------------------------------------------


def test_nan_that_pytorch_does_not_answer_is_a_failure_of_its_own(tmp_path: Path) -> None:
    path = graph(tmp_path, "s = Sqrt (x)\n y = Mul (s, s)")
    report = prove(spec(), lambda x: x.clamp(min=0), path)
    assert failures(report) == ["NotFinite"]
    assert "batch size 1: nan, PyTorch answers 0. No tolerance" in report.failures[0].message
    found = report.outputs[0]
    assert found.new_non_finite == found.histogram.non_finite == found.differing > 0
    assert found.worst is not None
    assert (found.worst.answer, found.worst.answer_text, found.worst.reference) == (None, "nan", 0)
    ParityReport.model_validate_json(report.model_dump_json())


def test_infinity_for_nan_and_a_number_for_infinity_fail_as_well(tmp_path: Path) -> None:
    zero = "k = Constant <value = float {0}> ()\n"
    path = graph(tmp_path, zero + "d = Mul (x, k)\n one = Exp (d)\n y = Div (one, k)")
    assert failures(prove(spec(), lambda x: x * torch.nan, path)) == ["NotFinite"]
    path = graph(tmp_path, "y = Identity (x)")
    report = prove(spec(), lambda x: x * 0 + torch.inf, path)
    assert failures(report) == ["NotFinite"]
    assert report.outputs[0].new_non_finite == 0


def test_nan_that_both_answer_is_equal_and_counted(tmp_path: Path) -> None:
    path = graph(tmp_path, "y = Log (x)")
    report = prove(spec(), torch.log, path)
    assert report.passed
    assert report.outputs[0].reference_non_finite > 0
    assert report.outputs[0].new_non_finite == 0


@pytest.mark.parametrize(
    ("dtype", "body", "function"),
    [
        ("int64", "i = Cast <to = 7> (x)\n k = Constant <value = int64 {1}> ()\n y = Add (i, k)", lambda x: x.long()),
        ("bool", "k = Constant <value = float {0.5}> ()\n y = Greater (x, k)", lambda x: x > 0),
        (
            "float64",
            "d = Cast <to = 11> (x)\n k = Constant <value = double {1.00001}> ()\n y = Mul (d, k)",
            lambda x: x.double(),
        ),
        (
            "float16",
            "k = Constant <value = float {1.05}> ()\n m = Mul (x, k)\n y = Cast <to = 10> (m)",
            lambda x: x.half(),
        ),
    ],
)
def test_each_type_has_its_own_tolerance(tmp_path: Path, dtype: str, body: str, function: Any) -> None:
    name = {"int64": "int64", "bool": "bool", "float64": "double", "float16": "float16"}[dtype]
    report = prove(spec(dtype), function, graph(tmp_path, body, f"{name}[batch,3] y"))
    assert failures(report) == ["ParityFailed"]
    same = {"int64": "y = Cast <to = 7> (x)", "bool": "k = Constant <value = float {0}> ()\n y = Greater (x, k)"}
    right = same.get(dtype, f"y = Cast <to = {11 if dtype == 'float64' else 10}> (x)")
    report = prove(spec(dtype), function, graph(tmp_path, right, f"{name}[batch,3] y"))
    assert report.passed
    assert (report.outputs[0].max_ulps is None) == (dtype in ("int64", "bool"))


def test_an_output_that_may_be_one_off_says_so(tmp_path: Path) -> None:
    body = "i = Cast <to = 7> (x)\n k = Constant <value = int64 {1}> ()\n y = Add (i, k)"
    path = graph(tmp_path, body, "int64[batch,3] y")
    own = {"batch_sizes": [2], "outputs": {"y": {"atol": 1, "rtol": 0}}}
    report = prove(spec("int64", parity=own), lambda x: x.long(), path)
    assert report.passed
    assert report.outputs[0].max_abs == 1


def test_one_value_a_sample_has_no_axis_but_the_batch(tmp_path: Path) -> None:
    sums = "k = Constant <value = int64[1] {1}> ()\n y = ReduceSum <keepdims = 0> (x, k)"
    path = graph(tmp_path, sums, "float[batch] y")
    report = prove(spec(shape=[]), lambda x: x.sum(1), path)
    assert report.passed
    assert report.outputs[0].cosine_min is report.outputs[0].top1_agreement is None
    wrong = prove(spec(shape=[]), lambda x: x.sum(1) + x[:, 0], path)
    assert failures(wrong) == ["ParityFailed"]
    assert wrong.outputs[0].worst is not None
    assert wrong.outputs[0].worst.index == []


# --- shapes -------------------------------------------------------------------------------------


def test_an_output_that_is_not_as_the_spec_declares_it_fails(tmp_path: Path) -> None:
    path = graph(tmp_path, DOUBLED, "float[batch,n] y")
    report = prove(spec(shape=[2]), doubled, path)
    assert failures(report) == ["OutputMisdeclared"]
    assert "is float32 [1, 3] for batch size 1: random values, the spec says float32 [batch, 2]" in str(
        report.failures[0].message
    )
    assert failures(prove(spec(shape=[3, 1]), doubled, path)) == ["OutputMisdeclared"]


def test_a_dynamic_axis_of_an_output_has_the_size_of_its_inputs(tmp_path: Path) -> None:
    changes = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}],
        "dynamic_axes": {"n": {"min": 2, "max": 9}},
    }
    path = graph(tmp_path, DOUBLED, "float[batch,n] y", "float[batch,n] x")
    assert prove(spec(shape=["n"], **changes), doubled, path).passed
    cut = "s = Constant <value = int64[1] {1}> ()\n e = Constant <value = int64[1] {99}> ()\n y = Slice (x, s, e, s)"
    path = graph(tmp_path, cut, "float[batch,m] y", "float[batch,n] x")
    report = prove(spec(shape=["n"], **changes), lambda x: x[:, 1:], path)
    assert failures(report) == ["OutputMisdeclared"]


def test_another_shape_or_type_than_pytorchs_is_no_answer_but_the_other_outputs_are_compared(tmp_path: Path) -> None:
    both = [{"name": name, "dtype": "float32", "shape": [3]} for name in ("y", "z")]
    axes = "k = Constant <value = int64[1] {1}> ()\n y = ReduceSum <keepdims = 1> (x, k)\n z = Add (x, x)"
    path = graph(tmp_path, axes, "float[batch,n] y, float[batch,3] z")
    report = prove(spec(outputs=both), lambda x: (x * 2, x * 3), path)
    assert failures(report) == ["OnnxUnusable", "ParityFailed"]
    assert "'y' is float32 [1, 1] for batch size 1: random values, PyTorch's is float32 [1, 3]" in str(report.failures)
    path = graph(tmp_path, "y = Cast <to = 11> (x)", "double[batch,3] y")
    with pytest.raises(OnnxUnusable, match="output 'y' is float64, the spec says float32"):
        prove(spec(), lambda x: x, path)


def test_pytorchs_own_type_is_held_to_the_spec(tmp_path: Path) -> None:
    report = prove(spec(), lambda x: x.double() * 2, graph(tmp_path, DOUBLED))
    assert failures(report) == ["OutputMisdeclared", "OnnxUnusable"]
    assert "is float64 [1, 3] for batch size 1" in report.failures[0].message

"""Parity passes what answers equally, and nothing else; its report says what was found, whether it passed or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from model_release import parity
from model_release.errors import ModelRefusesInputs, OnnxUnusable, ParityFailed, SamplesUnusable
from model_release.parity import cases
from model_release.parity.report import ParityReport
from tests.unit import toys
from tests.unit.parity_graphs import failures, graph, prove, spec

DOUBLED = "y = Add (x, x)"


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.fixture(scope="module")
def linear_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.exported("linear", tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def tokens_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.exported("tokens", tmp_path_factory.mktemp("tokens"))


def test_an_equal_file_is_proved_for_every_output_and_batch_size(tokens_path: Path) -> None:
    said: list[str] = []
    report = prove(toys.tokens_spec(), toys.Tokens(), tokens_path, version=3, progress=said.append)
    assert report.passed
    assert [found.output for found in report.outputs] == ["pooled", "states"]
    for found in report.outputs:
        assert [size.batch_size for size in found.by_batch_size] == [1, 4]
        assert found.max_abs <= 1e-5
        assert found.elements == sum(size.elements for size in found.by_batch_size) > 0
    assert (report.onnx.opset, report.providers, report.version, report.deterministic) == (20, ["cpu"], 3, True)
    assert len(report.onnx.files["model.onnx"]) == 64
    lengths = "all highest, 1 of 7, padded on the right, 1 of 7, padded on the left"
    assert f"batch size 4: {lengths} and 1 more" in said
    assert f"batch size 4: {lengths}, 3 of 7, padded on the right" in report.cases
    assert {"batch size 1: the shortest seq", "batch size 1: the longest seq"} <= set(report.cases)


def test_the_report_is_json_and_back(tokens_path: Path) -> None:
    report = prove(toys.tokens_spec(), toys.Tokens(), tokens_path)
    text = report.model_dump_json()
    assert ParityReport.model_validate_json(text) == report
    assert json.loads(text)["outputs"][0]["output"] == "pooled"
    assert report.summary()["batch_independent"] is True


def test_two_proofs_give_the_same_report_but_for_seconds(tokens_path: Path) -> None:
    one, other = (prove(toys.tokens_spec(), toys.Tokens(), tokens_path).model_dump() for _ in range(2))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_another_seed_puts_in_other_values(tmp_path: Path) -> None:
    path = graph(tmp_path, "k = Constant <value = float {1.001}> ()\n y = Mul (x, k)")
    found = [
        prove(spec(parity={"batch_sizes": [4], "seed": seed, "rtol": 1e-2}), lambda x: x, path).outputs[0]
        for seed in (1, 2)
    ]
    assert found[0].quantiles_abs != found[1].quantiles_abs


def test_other_weights_fail_with_output_batch_size_and_error(linear_path: Path) -> None:
    module = toys.linear()
    with torch.no_grad():
        module.bias[1] += 0.25
    report = prove(toys.spec(), module, linear_path)
    assert failures(report) == ["ParityFailed"]
    with pytest.raises(ParityFailed, match=r"output 'y' at batch size \d differs by 0\.25 \(13 of 26 elements"):
        report.raise_for_failure()
    assert report.outputs[0].differing == 13


def test_only_real_samples_may_show_the_difference(linear_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return linear(x) + (x.amax(1, keepdim=True) > 50)

    linear = toys.linear()
    assert prove(toys.spec(), Odd(), linear_path).passed
    samples = {"x": np.ones((40, 3), np.float32)}
    samples["x"][31] = 51
    report = prove(toys.spec(), Odd(), linear_path, samples=samples)
    assert failures(report) == ["ParityFailed"]
    worst = report.outputs[0].worst
    assert worst is not None
    assert (worst.case, worst.place) == ("sample 31", 3)
    assert report.real_samples == 40


def test_a_difference_at_one_batch_size_alone_is_found_there(tmp_path: Path) -> None:
    path = graph(
        tmp_path,
        """n = Shape <start = 0, end = 1> (x)
        six = Constant <value = int64 {6}> ()
        large = Greater (n, six)
        more = Cast <to = 1> (large)
        y = Add (x, more)""",
    )
    report = prove(spec(parity={"batch_sizes": [1, 4, 8]}), lambda x: x, path)
    assert [size.differing > 0 for size in report.outputs[0].by_batch_size] == [False, False, True]
    # Alone and among eight the answers differ as well, and only in the exported file.
    assert failures(report) == ["ParityFailed", "BatchDependent"]


def test_the_worst_sample_is_saved_and_shows_the_difference_again(tmp_path: Path) -> None:
    path = graph(tmp_path, "cube = Mul (x, x)\n small = Mul (cube, x)\n y = Add (x, small)")
    made = spec(inputs=[{"name": "x", "dtype": "float32", "shape": [3], "range": [-3, 5]}])
    report = prove(made, lambda x: x, path, worst_path=tmp_path / "worst.npz")
    worst, saved = report.outputs[0].worst, np.load(tmp_path / "worst.npz")
    assert report.worst_samples == "worst.npz"
    assert sorted(saved.files) == ["y.answer", "y.input.x", "y.reference"]
    answer = onnxruntime.InferenceSession(str(path)).run(None, {"x": saved["y.input.x"]})[0]
    np.testing.assert_array_equal(answer, saved["y.answer"])
    assert worst is not None
    assert abs(answer - saved["y.reference"])[(0, *worst.index)] == worst.abs_error == 125
    assert worst.case == "all highest"


def test_a_batch_size_baked_into_the_file_fails_and_the_others_are_still_compared(
    linear_path: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(linear_path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    report = prove(toys.spec(), toys.linear(), tmp_path / "fixed.onnx")
    assert failures(report) == ["OnnxUnusable"]
    assert "fails on batch size 4" in report.failures[0].message
    assert [size.batch_size for size in report.outputs[0].by_batch_size] == [1]


@pytest.mark.parametrize("by", [0.01, 100.0])
def test_a_file_in_which_one_weight_of_many_is_another_is_refused(linear_path: Path, tmp_path: Path, by: float) -> None:
    model = onnx.load(str(linear_path))
    weight = next(entry for entry in model.graph.initializer if list(entry.dims) == [2])
    values = numpy_helper.to_array(weight).copy()
    values[0] += by
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(tmp_path / "mutated.onnx"))
    assert failures(prove(toys.spec(), toys.linear(), tmp_path / "mutated.onnx")) == ["ParityFailed"]


def test_files_that_cannot_be_opened_or_compared_are_refused(
    linear_path: Path, tokens_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(OnnxUnusable, match=r"its inputs are \['ids', 'mask'\], the spec says \['x'\]"):
        prove(toys.spec(), toys.linear(), tokens_path)
    (tmp_path / "half.onnx").write_bytes(linear_path.read_bytes()[:100])
    with pytest.raises(OnnxUnusable, match="it is no ONNX file"):
        prove(toys.spec(), toys.linear(), tmp_path / "half.onnx")
    with pytest.raises(OnnxUnusable, match=r"does not open it .*Nonsense"):
        prove(spec(), doubled, graph(tmp_path, "y = Nonsense (x)"))


def test_an_opset_that_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    path = graph(tmp_path, DOUBLED)
    model = onnx.load(str(path))
    model.opset_import[0].version = 99
    onnx.save(model, str(path))
    with pytest.raises(OnnxUnusable, match=r"does not open it .*opset"):
        prove(spec(), doubled, path)


def test_a_file_that_fails_on_everything_raises(tmp_path: Path) -> None:
    path = graph(
        tmp_path,
        "k = Constant <value = float[5] {1,2,3,4,5}> ()\n y = Add (x, k)",
        "float[batch,n] y",
        "float[batch,m] x",
    )
    with pytest.raises(OnnxUnusable, match="ONNX Runtime fails on batch size 1"):
        prove(spec(), lambda x: x, path)


def test_weights_that_lie_beside_the_graph_are_digested_and_must_be_there(tmp_path: Path) -> None:
    path = graph(tmp_path, "y = Add (x, w)")
    model = onnx.load(str(path))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.float32), "w"))
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    report = prove(spec(), lambda x: x, path)
    assert sorted(report.onnx.files) == ["model.onnx", "model.onnx.data"]
    assert report.onnx.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(OnnxUnusable, match=r"\['model.onnx.data'\] do not lie beside it"):
        prove(spec(), lambda x: x, path)


def test_inputs_that_the_model_itself_refuses_point_to_the_spec(tokens_path: Path) -> None:
    made = toys.tokens_spec()
    wide = made.inputs[0].model_copy(update={"range": (0, 10)})
    made = made.model_copy(update={"inputs": [wide, made.inputs[1]]})
    with pytest.raises(ModelRefusesInputs, match=r"IndexError.*Correct inputs, ranges"):
        prove(made, toys.Tokens(), tokens_path)


def test_samples_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = graph(tmp_path, DOUBLED)
    with pytest.raises(SamplesUnusable, match="given to the proof cannot be used: 'x' is float64"):
        prove(spec(), doubled, path, samples={"x": np.zeros((2, 3))})
    with pytest.raises(SamplesUnusable, match=r"golden set cannot be used: the arrays \['label'\] are missing"):
        prove(spec(), doubled, path, golden={"x": np.zeros((2, 3), np.float32)})
    labelled = {"x": np.zeros((2, 3), np.float32), "label": np.zeros(2, np.int64)}
    assert prove(spec(), doubled, path, samples=labelled).real_samples == 2


# --- what a case may take -----------------------------------------------------------------------


def test_huge_axes_and_batches_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MOST_ELEMENTS", 120)
    made = spec(
        shape=["n"],
        inputs=[{"name": "x", "dtype": "float32", "shape": ["n"]}],
        dynamic_axes={"n": {"min": 4, "max": 4096}},
    )
    report = prove(made, doubled, graph(tmp_path, DOUBLED, "float[batch,n] y", "float[batch,n] x"))
    assert report.passed
    assert "batch size 3 (of 4, to fit into memory): random values" in " ".join(report.cases)
    assert "batch size 1: the longest n (n 32 instead of 4096, to fit into memory)" in report.cases


def test_the_work_is_bounded_by_the_plan(tmp_path: Path) -> None:
    asked = 0

    def counting(x: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return x * 2

    samples = {"x": np.random.default_rng(0).random((5000, 3), np.float32)}
    made = spec(serving={"max_batch_size": 64}, parity={})
    report = prove(made, counting, graph(tmp_path, DOUBLED), samples=samples)
    assert report.passed
    assert asked == len(report.cases) + 2 <= 32
    assert report.real_samples == 128


def test_float16_inputs_stay_inside_what_float16_holds(tmp_path: Path) -> None:
    wide = [{"name": "x", "dtype": "float16", "shape": [3], "range": [-1e6, 1e6]}]
    path = graph(tmp_path, "y = Identity (x)", "float16[batch,3] y", "float16[batch,3] x")
    report = prove(spec("float16", inputs=wide), lambda x: x, path)
    assert report.passed
    assert report.outputs[0].reference_non_finite == 0


# --- recording ----------------------------------------------------------------------------------


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


def test_without_batching_each_sample_is_recorded_alone() -> None:
    recorded = parity.record(toys.spec(serving={"max_batch_size": 0}), toys.Neighbours(), None)
    assert np.array_equal(recorded["output__y"], np.zeros((32, 2), np.float32))

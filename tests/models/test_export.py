"""The exported file is what the spec says, carries nothing of the machine, and failures name the user's line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_release.errors import ExportFailed
from model_release.export import export_onnx, write
from model_release.spec import ModelSpec
from tests.unit import toys


def exported(spec: ModelSpec, module: torch.nn.Module, folder: Path) -> Path:
    path = folder / "model.onnx"
    export_onnx(spec, module, path, version=toys.VERSION, source_sha256=toys.SHA256)
    return path


def shapes(values: Any) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }


@pytest.fixture(scope="module")
def linear_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.exported("linear", tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def tokens_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.exported("tokens", tmp_path_factory.mktemp("tokens"))


def test_names_and_a_dynamic_batch_come_from_the_spec(linear_path: Path) -> None:
    model = onnx.load(str(linear_path))
    assert shapes(model.graph.input) == {"x": ["batch", 3]}
    assert shapes(model.graph.output) == {"y": ["batch", 2]}
    assert {entry.version for entry in model.opset_import if not entry.domain} == {20}


def test_the_file_names_model_version_and_source(linear_path: Path) -> None:
    model = onnx.load(str(linear_path))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert model.producer_name == "model-release"
    assert (facts["model"], facts["version"], facts["source_sha256"]) == ("toy", str(toys.VERSION), toys.SHA256)
    assert facts["torch"] == torch.__version__


def test_no_path_of_this_machine_is_in_the_file(linear_path: Path, tokens_path: Path) -> None:
    for path in (linear_path, tokens_path):
        body = path.read_bytes()
        for trace in (b"stack_trace", b"site-packages", str(Path.cwd()).encode(), b".py"):
            assert trace not in body


def test_the_same_module_gives_the_same_bytes(linear_path: Path, tmp_path: Path) -> None:
    assert exported(toys.spec(), toys.linear(), tmp_path).read_bytes() == linear_path.read_bytes()


def test_several_inputs_by_name_and_outputs_of_a_mapping(tokens_path: Path) -> None:
    model = onnx.load(str(tokens_path))
    assert shapes(model.graph.input) == {"ids": ["batch", "seq"], "mask": ["batch", "seq"]}
    assert shapes(model.graph.output) == {"pooled": ["batch", 4], "states": ["batch", "seq", 4]}
    ids, mask = np.array([[1, 2, 3]]), np.array([[1, 1, 0]])
    pooled, _ = onnxruntime.InferenceSession(str(tokens_path), providers=["CPUExecutionProvider"]).run(
        None, {"ids": ids, "mask": mask}
    )
    expected = toys.Tokens()(torch.from_numpy(mask), torch.from_numpy(ids))["pooled"].detach().numpy()
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_the_exporter_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        exported(toys.spec(), toys.linear(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (toys.Branches(), r"depends on the values of a tensor \(toys\.py line \d+: if x\.sum\(\) > 0:\).*torch\.where"),
        (toys.Spectrum(), r"opset 20 has no operator for aten\.\w*eigh?.*toys\.py line \d+: return torch\.linalg"),
        (toys.FixedBatch(), r"does not take every size of the spec's dynamic axes \(batch = 2\)"),
        (toys.Fails(), r"ValueError: no such thing \(toys\.py line \d+: raise"),
    ],
    ids=["branches", "operator", "fixed batch", "raises"],
)
def test_a_module_that_does_not_export_is_explained_by_its_own_line(
    tmp_path: Path, module: torch.nn.Module, says: str
) -> None:
    with pytest.raises(ExportFailed, match=says) as caught:
        exported(toys.spec(), module, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"outputs": [{"name": "y", "dtype": "float32", "shape": [3]}]},
            r"'y' has the shape \['batch', 2\].*'batch', 3",
        ),
        (
            {"outputs": [{"name": "y", "dtype": "int64", "shape": [2]}]},
            "'y' is float32 in the graph, the spec says int64",
        ),
        (
            {
                "outputs": [
                    {"name": "y", "dtype": "float32", "shape": [2]},
                    {"name": "z", "dtype": "float32", "shape": [2]},
                ]
            },
            r"returns 1 values, the spec names the outputs \(y, z\)",
        ),
        (
            {
                "inputs": [
                    {"name": "x", "dtype": "float32", "shape": [3]},
                    {"name": "w", "dtype": "float32", "shape": [3]},
                ]
            },
            r"spec has the inputs \(x, w\), but forward takes \(input\)",
        ),
    ],
    ids=["shape", "dtype", "outputs", "inputs"],
)
def test_a_spec_that_differs_from_the_module_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportFailed, match=says):
        exported(toys.spec(**changes), toys.linear(), tmp_path)


def test_an_output_without_a_batch_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="has the shape"):
        exported(toys.spec(), toys.Mean(), tmp_path)


def test_a_mapping_without_the_output_is_named(tmp_path: Path) -> None:
    spec = toys.tokens_spec()
    spec = spec.model_copy(update={"outputs": [spec.outputs[0].model_copy(update={"name": "logits"})]})
    with pytest.raises(
        ExportFailed, match=r"a mapping with \(states, unused, pooled\), without the outputs \(logits\)"
    ):
        exported(spec, toys.Tokens(), tmp_path)


def test_weights_beyond_one_file_lie_beside_the_graph_and_answer_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = toys.spec(inputs=[{"name": "x", "dtype": "float32", "shape": [300]}])
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    [alone] = export_onnx(wide, toys.linear(300), one / "model.onnx", version=1, source_sha256=toys.SHA256)
    monkeypatch.setattr(write, "MOST_BYTES", 100)
    files = export_onnx(wide, toys.linear(300), several / "model.onnx", version=1, source_sha256=toys.SHA256)
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
    assert sorted(file.name for file in several.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(several / "model.onnx"), full_check=True)
    x = np.random.default_rng(0).random((5, 300), np.float32)
    answers = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (alone, several / "model.onnx")
    ]
    assert np.array_equal(*answers)


def test_a_second_export_leaves_no_weights_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(b"stale")
    exported(toys.spec(), toys.linear(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]

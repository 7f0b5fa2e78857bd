"""Ensembles are proved as one model: parts in Python run as Triton runs them, and texts are compared as texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from model_release.build_ensemble import BuiltPart, PartSource, PartSources, source_of_script, validate_ensemble
from model_release.errors import BadModelConfig, PartFails
from model_release.intake import FetchedCheckpoint, fetch_checkpoint
from model_release.parity import Script
from model_release.parity import samples as sets
from model_release.parity.report import ParityReport
from model_release.spec import ModelSpec
from tests.unit import ensembles
from tests.unit.ensembles import VERSION
from tests.unit.toys import ENVIRONMENT, exported, linear

END = {"output": [{"name": "label", "dims": [1]}]}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    ensembles.write_parts(tmp_path / "include")
    return tmp_path / "include"


def built(spec: ModelSpec, scripts: Path, folder: Path) -> tuple[PartSources, dict[str, BuiltPart]]:
    """What export leaves of the ensemble, and what is read back of it."""
    own = folder / "model"
    own.mkdir()
    onnx, checkpoint = exported("linear", own), own / "checkpoint.safetensors"
    save_file(linear().state_dict(), checkpoint)
    fetched = FetchedCheckpoint("file:///toy", checkpoint, "a" * 64, 1)
    sources = {
        part: source_of_script(f"include/{part}", {file.name: file for file in (scripts / part).glob("*.py")})
        for part in ("start", "end")
    }
    sources["model"] = PartSource(uri="file:///toy", sha256="a" * 64, files={onnx.name: "b" * 64})
    parts = {"start": BuiltPart(scripts / "start"), "end": BuiltPart(scripts / "end"), "model": BuiltPart(own, fetched)}
    return PartSources(parts=sources), parts


def validated(spec: ModelSpec, scripts: Path, folder: Path) -> ParityReport:
    sources, parts = built(spec, scripts, folder)
    return validate_ensemble(spec, sources, parts, folder, version=VERSION)


def test_the_whole_is_proved_and_recorded_with_its_references_answers(scripts: Path, tmp_path: Path) -> None:
    report = validated(ensembles.whole(), scripts, tmp_path)

    assert report.passed, report.failures
    assert set(report.onnx.files) == {
        *("parts/start/model.py", "parts/start/lengths.py", "parts/end/model.py", "parts/model/model.onnx")
    }
    assert report.source.uri.startswith("start: include/start")
    with np.load(tmp_path / "recorded.npz", allow_pickle=False) as recorded:
        assert recorded["input__text"].dtype.kind == recorded["output__label"].dtype.kind == "U"
        assert set(recorded["output__label"]) <= {"first", "second"}


def test_a_text_that_differs_fails_the_proof_and_is_shown(scripts: Path, tmp_path: Path) -> None:
    spec = ensembles.whole()
    sources, parts = built(spec, scripts, tmp_path)
    turned = linear()
    turned.weight.data.neg_()
    turned.bias.data.neg_()
    save_file(turned.state_dict(), parts["model"].fetched.path)  # type: ignore[union-attr]

    report = validate_ensemble(spec, sources, parts, tmp_path, version=VERSION)

    [found] = report.outputs
    assert [failure.error for failure in report.failures] == ["ParityFailed"]
    assert found.differing == found.elements
    assert found.worst is not None
    assert {found.worst.reference_text, found.worst.answer_text} == {"first", "second"}
    assert "first" in (tmp_path / "parity.html").read_text()
    assert not (tmp_path / "recorded.npz").exists()


def script(folder: Path, part: str, config: dict[str, Any] | None = None) -> Script:
    return Script(ensembles.whole().python_parts[part], folder / part, config or END)


def test_a_part_sees_the_files_beside_it_and_leaves_no_module_behind(scripts: Path) -> None:
    before = dict(sys.modules)
    x = script(scripts, "start")({"text": np.array(["four", ""])})["x"]

    np.testing.assert_array_equal(x, np.array([[4, 7, 1], [0, 7, 1]], np.float32))
    left = sys.modules.keys() - before.keys()
    assert not {name for name in left if name in ("lengths", "triton_python_backend_utils") or "_part" in name}


def test_texts_go_in_as_bytes_and_come_out_as_text(scripts: Path) -> None:
    assert script(scripts, "start")({"text": np.array(["\u00e9"])})["x"][0, 0] == 2, "Triton hands over UTF-8"
    assert list(script(scripts, "end")({"y": np.array([[1, 0], [0, 1]], np.float32)})["label"]) == ["first", "second"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("raise KeyError('nothing')", "KeyError: 'nothing'"),
        ("return [pb_utils.InferenceResponse(error=pb_utils.TritonError('too long'))]", "ValueError: too long"),
        ("return [pb_utils.InferenceResponse([])]", "its response has no output 'label'"),
        (
            "return [pb_utils.InferenceResponse([pb_utils.Tensor('label', np.zeros(1))])]",
            "output 'label' is float64, and has to be text",
        ),
    ],
)
def test_a_part_that_fails_is_named_with_what_it_was_given(scripts: Path, line: str, words: str) -> None:
    path = scripts / "end" / "model.py"
    path.write_text(path.read_text().replace("answers = []", line))

    with pytest.raises(PartFails) as caught:
        script(scripts, "end")({"y": np.zeros((1, 2), np.float32)}, "batch size 1: zeros")
    assert "the part whole__end, which is Python, fails on batch size 1: zeros: " in str(caught.value)
    assert words in str(caught.value)


def test_a_part_that_does_not_start_is_named(scripts: Path) -> None:
    (scripts / "end" / "model.py").write_text("import a_package_that_nobody_has\n")

    with pytest.raises(PartFails, match="fails on its start: ModuleNotFoundError"):
        script(scripts, "end")


def test_generated_texts_are_the_same_each_time_and_have_the_examples_words() -> None:
    spec = ensembles.whole(inputs=[{"name": "text", "dtype": "string", "shape": [], "examples": ["one two", "three"]}])
    one, again = sets.generate(spec, 40, 5, {}), sets.generate(spec, 40, 5, {})

    assert np.array_equal(one["text"], again["text"])
    assert {word for text in one["text"] for word in str(text).split()} == {"one", "two", "three"}
    lengths = [len(sample["text"][0]) for _, sample in sets.edges(spec, {})]
    assert {0, 1, 4096} <= set(lengths)
    assert len(lengths) == 8, "each edge is a text of its own"


def test_an_ensemble_has_no_checkpoint_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(BadModelConfig, match=r"name the config of one of its parts: \['toy'\]"):
        fetch_checkpoint(ensembles.whole(), "file:///toy.safetensors", ENVIRONMENT, tmp_path)

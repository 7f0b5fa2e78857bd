"""Ensembles in model configs: what holds, and the sentence for each thing that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec, owner_of
from model_release.spec_files import files_of_part, load_spec
from tests.unit import ensembles


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the config of the part, and the folders of the parts in Python on the path of imports."""
    ensembles.write_parts(tmp_path / "include")
    monkeypatch.syspath_prepend(str(tmp_path / "include"))
    folder = tmp_path / "include" / "model_configs"
    folder.mkdir()
    (folder / "toy.yaml").write_text(yaml.safe_dump(ensembles.inner()))
    return folder


def load(folder: Path, values: dict[str, Any]) -> ModelSpec:
    (folder / "whole.yaml").write_text(yaml.safe_dump(values))
    return load_spec(folder / "whole.yaml")


def test_the_configs_that_parts_name_are_read_with_the_ensemble_and_stay_in_it(configs: Path) -> None:
    spec = load(configs, ensembles.values())
    (configs / "toy.yaml").unlink()

    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.model_parts["model"].name == "whole__model"
    assert spec.checkpoint_template == "file:///toy-{{ version }}.safetensors"
    assert owner_of("whole__model") == owner_of("whole") == "whole"


def test_a_part_in_python_takes_and_gives_what_it_is_connected_to(configs: Path) -> None:
    parts = load(configs, ensembles.values()).python_parts

    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in parts["start"].outputs] == [("x", "float32", [3])]
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in parts["end"].inputs] == [("y", "float32", [2])]
    assert parts["end"].outputs[0].dtype == "string"


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the ensemble with another value at a place like steps.0.inputs."""
    values = ensembles.values()
    at: Any = values["serving"]["ensemble"] if path.split(".")[0] in ("parts", "steps") else values
    *way, last = path.split(".")
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return values


DECLARED = {"python": "include/start", "outputs": [{"name": "x", "dtype": "int64", "shape": [3]}]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed("steps.0.part", "begin"), "a step names the part 'begin'; the parts are ['end', 'model', 'start']"),
        (changed("parts.spare", {"python": "include/end"}), "no step uses the part 'spare'"),
        (changed("parts.model", {"config": "tool"}), "no model config named 'tool'"),
        (changed("parts.model", {"config": "whole"}), "'whole' is the ensemble itself"),
        (changed("parts.model", {"config": "toy", "spec": ensembles.inner()}), "spec is filled in from the config"),
        (changed("parts.model", {}), "a part is either {config: OTHER} or {python: include/.../folder}"),
        (changed("parts.start", {"python": "/tmp/start"}), "String should match pattern"),
        (changed("parts.start", {"python": "include/../start"}), "String should match pattern"),
        (changed("parts.start", {"python": "include/nowhere"}), "include/nowhere is no folder of the repository"),
        (changed("parts.start", {"python": "include/model_configs"}), "has no model.py"),
        (changed("parts.two__words", {"python": "include/end"}), "which stands between the names"),
        (changed("steps.1.inputs", {"z": "lengths"}), "part 'model' has no input 'z'; it has ['x']"),
        (changed("steps.1.inputs", {"z": "lengths"}), "input 'x' of part 'model' is not connected"),
        (changed("steps.1.outputs", {"z": "scores"}), "part 'model' has no output 'z'"),
        (changed("steps.2.inputs", {"y": "score"}), "input 'y' of part 'end' takes 'score', which nothing makes"),
        (changed("steps.2.outputs", {"label": "name"}), "output 'label' is made by no step"),
        (changed("steps.2.outputs", {"label": "label", "more": "more"}), "which part 'end' makes, goes nowhere"),
        (changed("steps.2.outputs", {"label": "label", "more": "lengths"}), "'lengths' is made twice"),
        (changed("steps.1.outputs", {"y": "text"}), "part 'model' makes 'text', which is an input of the ensemble"),
        (changed("steps.0.inputs", {"text": "scores"}), "input 'text' goes into no step"),
        (changed("parts.start", DECLARED), "is int64[3] by output 'x' of part 'start', and float32[3] by"),
        (changed("source", {"checkpoint": "s3://x/y", "factory": "a:b"}), "an ensemble has no source"),
        (changed("accuracy", {"golden_set": "s3://x"}), "accuracy is not for an ensemble"),
        (changed("serving.queue", {"max_size": 3}), "queue of an ensemble have no meaning in Triton"),
        (changed("serving.max_batch_size", 16), "max_batch_size 16 is above that of part 'model', 8"),
        (changed("serving.max_batch_size", 0), "both need batching, or neither"),
        (changed("serving.ensemble", None), "source is missing"),
        (changed("inputs.0.range", [0, 1]), "is text and has no range"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_ensemble_is_said(configs: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModelConfig) as caught:
        load(configs, values)

    assert words in str(caught.value)


def test_steps_that_wait_for_each_other_are_a_cycle() -> None:
    values = ensembles.values()
    steps = values["serving"]["ensemble"]["steps"]
    steps[0]["inputs"]["back"] = "back"
    steps[2]["outputs"]["back"] = "back"
    values["serving"]["ensemble"]["parts"]["model"]["spec"] = ensembles.inner()

    with pytest.raises(ValueError, match="steps wait for each other in a cycle: start -> model -> end -> start"):
        ModelSpec.model_validate(values)


def test_an_ensemble_takes_no_program_no_engine_and_no_other_ensemble_for_a_part() -> None:
    program = {"format": "torchscript", "checkpoint": "s3://x/model.pt", "allow_code": True, "sha256": "a" * 64}
    with pytest.raises(ValueError, match="whose checkpoint is a program"):
        ensembles.whole({"source": program})
    with pytest.raises(ValueError, match="of the backend tensorrt, and a part is served as its ONNX file"):
        ensembles.whole({"serving": {"backend": "tensorrt", "instance_group": {"kind": "gpu"}}})

    values = ensembles.values()
    values["serving"]["ensemble"]["parts"]["model"]["spec"] = ensembles.whole().model_dump(mode="json")
    with pytest.raises(ValueError, match="an ensemble itself; name its parts here"):
        ModelSpec.model_validate(values)


def test_text_without_an_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="which no exported graph takes or gives"):
        ModelSpec.model_validate(ensembles.inner(inputs=[{"name": "x", "dtype": "string", "shape": []}]))


def test_a_part_brings_code_and_plain_data_from_inside_of_the_repository_alone(configs: Path) -> None:
    start = configs.parent / "start"
    assert sorted(files_of_part("include/start")) == ["lengths.py", "model.py"]

    (start / "weights.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"include/start/weights.pkl is of no kind that a part may bring"):
        files_of_part("include/start")
    (start / "weights.pkl").unlink()
    (start / "other.py").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="leads outside of the repository's folders"):
        files_of_part("include/start")

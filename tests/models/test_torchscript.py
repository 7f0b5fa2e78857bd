"""TorchScript on Triton's pytorch backend: what its config may say, and how the file is held against its module."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_release import build, parity
from model_release.errors import BadModelConfig, CheckpointUnsafe, TorchScriptUnusable
from model_release.identity import Kind, Release
from model_release.intake import fetch_checkpoint, open_checkpoint
from model_release.parity.report import ParityReport, Source
from model_release.spec import ModelSpec
from model_release.spec_files import parse_section
from model_release.steps import plan
from model_release.triton import config as configs
from tests.unit import toys
from tests.unit.command import run
from tests.unit.served_toys import ENVIRONMENT

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and what this backend serves
PIN = "ab" * 32
EACH = "{{ asset.extra.sha256 }}"
CODE = {"checkpoint": "file:///model.pt", "format": "torchscript", "allow_code": True, "sha256": PIN}


def spec(source: dict[str, Any] | None = None, serving: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return toys.spec(
        source={**CODE, **(source or {})},
        serving={"backend": "pytorch", "max_batch_size": 8, "instance_group": {"kind": "cpu"}, **(serving or {})},
        **changes,
    )


def refused(**changes: Any) -> str:
    with pytest.raises(BadModelConfig) as caught:
        parse_section(ModelSpec, spec().model_copy(update=changes).model_dump_json(), "toy.yaml")
    return str(caught.value)


class Stretch(nn.Module):
    """A module with a buffer that its state_dict leaves out, and a trace keeps."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("place", torch.arange(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.dropout(x)) + self.place


class ForTwo(Stretch):
    """Its trace keeps the batch size that it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + len(x.tolist())


class Named(Stretch):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": super().forward(x)}


def stretch(dropout: float = 0.0) -> nn.Module:
    return Stretch(dropout)


def traced(module: nn.Module, path: Path, rows: int = 2) -> Path:
    torch.jit.save(torch.jit.trace(module, torch.ones(rows, 3), check_trace=False, strict=False), str(path))
    return path


def proved(module: nn.Module, path: Path, asked: ModelSpec | None = None) -> ParityReport:
    source = Source(uri="file:///model.pt", sha256=PIN)
    return parity.prove(asked or spec(), module.eval().requires_grad_(False), path, source=source)


# --- the config -------------------------------------------------------------------------------


def test_the_pytorch_backend_serves_a_torchscript_alone_and_as_it_is() -> None:
    served = spec().serving
    assert served.model_file == "model.pt"
    onnx = served.model_copy(update={"backend": "onnxruntime"})
    assert "which becomes an ONNX file: leave backend out" in refused(source=toys.spec().source)
    assert "export says how an ONNX file is made" in refused(export=toys.spec(export={"opset": 21}).export)
    with_factory = spec(source={"factory": "a:b"}).source
    assert "factory is for state_dict, and for a torchscript on" in refused(source=with_factory, serving=onnx)


def test_the_config_names_the_backend_and_its_parameters() -> None:
    config = configs.build_config(spec(serving={"parameters": {"INFERENCE_MODE": False}}), 1)
    assert config.backend == "pytorch"
    assert config.parameters["INFERENCE_MODE"].string_value == "0"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"serving": {"parameters": {"INFERENCE_MOD": "1"}}}, "Did you mean 'INFERENCE_MODE'"),
        ({"serving": {"parameters": {"intra_op_thread_count": "1"}}}, "the backend reads no 'intra_op_thread_count'"),
        ({"serving": {"parameters": {"DISABLE_CUDNN": "maybe"}}}, "DISABLE_CUDNN must be 0 or 1, got 'maybe'"),
        ({"serving": {"raw": {"parameters": {"DISABLE_CUDNN": {"string_value": "1"}}}}}, "use serving.parameters"),
        ({"inputs": [{"name": "x", "dtype": "uint32", "shape": [3]}]}, "x is uint32, which Triton's pytorch backend"),
        (
            {"outputs": [{"name": f"OUT__{n}", "dtype": "float32", "shape": [2]} for n in (1, 0)]},
            "OUT__1 stands at place 0, and Triton's pytorch backend takes it for place 1",
        ),
    ],
)
def test_what_the_backend_would_pass_over_or_turn_round_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadModelConfig) as caught:
        configs.build_config(spec(**changes), 1)
    assert sentence in str(caught.value)


def test_tritons_names_by_index_are_taken() -> None:
    outputs = [{"name": f"OUTPUT__{n}", "dtype": "float32", "shape": [2]} for n in range(2)]
    inputs = [{"name": "INPUT__0", "dtype": "float32", "shape": [3]}]
    assert configs.build_config(spec(inputs=inputs, outputs=outputs), 1).output[1].name == "OUTPUT__1"


# --- the pin ----------------------------------------------------------------------------------


def test_a_release_pins_the_file_that_its_training_named_and_no_other_spec_changes() -> None:
    asked = spec(source={"sha256": EACH})
    assert asked.source.pinned_by == "sha256"
    assert asked.pinned(PIN).source.sha256 == PIN
    assert spec().pinned("cd" * 32).source.sha256 == PIN
    assert toys.spec().pinned(PIN) == toys.spec()


@pytest.mark.parametrize("said", [None, "not-hex", PIN.upper()])
def test_a_program_that_no_release_pins_is_refused_before_anything_is_asked_of_the_store(said: str | None) -> None:
    release = Release("toy", toys.VERSION, Kind.BUILD, "run", checkpoint="file:///model.pt", sha256=said)
    with pytest.raises(CheckpointUnsafe, match="does not say the sha256 of the one file that it trusts"):
        plan.run(release, ENVIRONMENT, spec(source={"sha256": EACH}))


def test_a_release_with_a_pin_survives_json() -> None:
    release = Release("toy", toys.VERSION, Kind.BUILD, "run", sha256=PIN)
    assert Release.from_dict(release.to_dict()) == release
    older = {key: value for key, value in release.to_dict().items() if key != "sha256"}
    assert Release.from_dict(older).sha256 is None


def test_the_command_line_keeps_the_file_whose_sha256_is_given(tmp_path: Path) -> None:
    path = traced(Stretch().eval(), tmp_path / "checkpoint.pt")
    asked = ["export", "embedding_model_torchscript", "--checkpoint", str(path), "--out", str(tmp_path / "out")]

    refused = run(*asked)
    assert refused.returncode != 0
    assert "or by --sha256" in refused.stderr
    kept = run(*asked, "--sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert kept.returncode == 0, kept.stderr
    assert (tmp_path / "out" / "model.pt").read_bytes() == path.read_bytes()


# --- the proof --------------------------------------------------------------------------------


def test_a_trace_that_answers_as_its_module_is_proved_in_every_batch(tmp_path: Path) -> None:
    report = proved(Stretch(), traced(Stretch().eval(), tmp_path / "model.pt"))
    assert report.passed, report.failures
    assert (report.onnx.kind, list(report.onnx.files), report.outputs[0].max_abs) == ("torchscript", ["model.pt"], 0)
    assert {row.batch_size for row in report.batch_independence} == {4, 8}


def test_a_trace_that_keeps_the_batch_size_of_its_tracing_is_stopped(tmp_path: Path) -> None:
    report = proved(ForTwo(), traced(ForTwo().eval(), tmp_path / "model.pt"))
    assert report.failures[0].error == "ParityFailed"


def test_a_file_that_was_saved_while_training_is_stopped_by_its_noise(tmp_path: Path) -> None:
    report = proved(Stretch(0.5), traced(Stretch(0.5).train(), tmp_path / "model.pt"))
    assert [failure.error for failure in report.failures] == ["NotDeterministic"]


@pytest.mark.parametrize(
    ("module", "words"), [(Named(), "wants 1 tensors, in order"), (Stretch().double(), "fails on")]
)
def test_a_file_that_the_backend_would_not_take_is_refused(module: nn.Module, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    ones = torch.ones(2, 3, dtype=next(module.parameters()).dtype)
    torch.jit.save(torch.jit.trace(module.eval(), ones, strict=False), str(path))
    with pytest.raises(TorchScriptUnusable, match=words):
        proved(Stretch(), path)


def test_the_reference_of_a_file_with_a_factory_is_its_module_with_the_files_weights(tmp_path: Path) -> None:
    changed = Stretch().eval()
    with torch.no_grad():
        changed.layer.bias.fill_(7)
    path = traced(changed, tmp_path / "model.pt")
    digest = parity.prove(
        spec(), changed.requires_grad_(False), path, source=Source(uri="file:///m", sha256=PIN)
    ).onnx.files["model.pt"]
    asked = spec(source={"checkpoint": toys.uri(path), "sha256": digest, "factory": f"{__name__}:stretch"})
    folder = tmp_path / "work"
    folder.mkdir()
    fetched = fetch_checkpoint(asked, toys.uri(path), toys.ENVIRONMENT, folder)
    module = open_checkpoint(asked, fetched)
    assert type(module).__name__ == "Stretch"
    assert torch.equal(module.layer.bias, torch.full((2,), 7.0))
    served = folder / "model.pt"
    assert build.export(asked, fetched, served, version=1) == [served]
    assert served.read_bytes() == path.read_bytes()
    report = build.validate(asked, fetched, served, folder)
    assert report.passed, report.failures
    with np.load(folder / build.RECORDED) as recorded:
        assert {"input__x", "output__y"} <= set(recorded.files)

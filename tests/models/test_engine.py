"""TensorRT engines: what is asked of TensorRT, on a stand-in of its Python API, and what a config of them may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_release import build
from model_release.errors import BadModelConfig, EngineFailed, TensorRTMissing
from model_release.export import engine
from model_release.spec import ModelSpec
from model_release.triton import config as configs
from tests.models.fake_tensorrt import installed
from tests.unit import toys

ON_GPU = {"backend": "tensorrt", "max_batch_size": 8, "instance_group": {"kind": "gpu"}}


def spec(serving: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return toys.spec(serving={**ON_GPU, **(serving or {})}, **changes)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an ONNX file")
    return path


def test_an_engine_keeps_the_types_of_the_onnx_file_and_is_for_all_batches(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "packages", monkeypatch)
    plan, heard = tmp_path / "model.plan", list[str]()

    built = build.build_engine(spec(), onnx, plan, progress=heard.append)

    asked = json.loads(plan.read_bytes())
    assert asked["read"] == str(onnx)
    assert asked["network_flags"] == ["STRONGLY_TYPED"]
    assert asked["cleared"] == ["TF32"]
    assert asked["shapes"] == {"x": [[1, 3], [8, 3], [8, 3]]}
    assert built["tensorrt"] == "10.13.0"
    assert built["size_bytes"] == plan.stat().st_size
    assert built["shapes"] == {"x": {"min": [1, 3], "opt": [8, 3], "max": [8, 3]}}
    assert heard


def test_kernels_are_chosen_for_the_largest_preferred_batch_and_the_middle_of_an_axis() -> None:
    asked = spec(
        {"dynamic_batching": {"preferred_batch_size": [2, 4]}},
        inputs=[{"name": "ids", "dtype": "int64", "shape": ["length"]}],
        dynamic_axes={"length": {"min": 1, "max": 128}},
    )

    assert dict(engine.shapes_of(asked)) == {"ids": ((1, 1), (4, 64), (8, 128))}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "parse",
            "TensorRT builds no engine of toy: node 3 (NonZero) is not supported; node 7 (Loop) is not supported.",
        ),
        ("build", "TensorRT builds no engine of toy: it built nothing, and its log says why."),
    ],
)
def test_what_tensorrt_does_not_build_is_told_in_its_words_and_leaves_no_file(
    fault: str, sentence: str, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "packages", monkeypatch, fault=fault)

    with pytest.raises(EngineFailed) as caught:
        build.build_engine(spec(), onnx, tmp_path / "model.plan")

    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "model.plan").exists()


def test_a_worker_without_tensorrt_or_without_a_gpu_says_so_before_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "cuda_devices", lambda: 0)
    with pytest.raises(TensorRTMissing, match=r"the package tensorrt is not here.*run validate on such a worker"):
        engine.require_tensorrt(spec())

    installed(tmp_path / "packages", monkeypatch)
    with pytest.raises(TensorRTMissing, match="an NVIDIA GPU is not here"):
        engine.require_tensorrt(spec())

    monkeypatch.setattr(engine, "cuda_devices", lambda: 1)
    engine.require_tensorrt(spec())


# --- the config -------------------------------------------------------------------------------


def test_the_config_names_the_backend_its_file_and_its_parameter() -> None:
    asked = spec({"parameters": {"execution_context_allocation_strategy": "ON_PROFILE_CHANGE"}})

    config = configs.build_config(asked, 1)

    assert (config.backend, asked.serving.model_file, asked.serving.exported_file) == (
        "tensorrt",
        "model.plan",
        "model.onnx",
    )
    assert config.parameters["execution_context_allocation_strategy"].string_value == "ON_PROFILE_CHANGE"
    assert [entry.batch_size for entry in config.model_warmup] == [1, 2, 4, 8]


def test_a_profile_of_the_engine_may_be_named() -> None:
    config = configs.build_config(spec({"raw": {"instance_group": [{"profile": ["0"]}]}}), 1)

    assert list(config.instance_group[0].profile) == ["0"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"serving": {"parameters": {"intra_op_thread_count": "1"}}}, "the backend reads no 'intra_op_thread_count'"),
        (
            {"serving": {"parameters": {"execution_context_allocation_strategy": "LAZY"}}},
            "must be STATIC or ON_PROFILE_CHANGE, got 'LAZY'",
        ),
        ({"serving": {"accelerators": [{"name": "cuda"}]}}, "accelerators are for the backend onnxruntime"),
        (
            {"outputs": [{"name": "y", "dtype": "float64", "shape": [2]}]},
            "y is float64, which no TensorRT engine takes or gives",
        ),
    ],
)
def test_what_the_backend_would_pass_over_or_refuse_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadModelConfig) as caught:
        configs.build_config(spec(**changes), 1)

    assert sentence in str(caught.value)

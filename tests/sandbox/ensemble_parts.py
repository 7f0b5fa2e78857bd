"""An ensemble whose answer tells which version each of its parts in Python is of, sealed by hand or released."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.torch import save

from model_release.environment import Environment
from model_release.identity import Kind, Release
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import MODEL_FILE
from model_release.repository.store import s3_client
from model_release.spec import ModelSpec
from model_release.triton.bundle import build_bundle
from sandbox.traffic import http_body
from tests.sandbox.releasing import Model
from tests.sandbox.served_parts import Bench, graph, unclaimed

_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
"""
START = (
    _MODEL
    + """
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        x = np.array([[len(text), VERSION, 1] for text in texts.ravel()], np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("x", x)])
"""
)
END = (
    _MODEL
    + """
        y = pb_utils.get_input_tensor_by_name(request, "y").as_numpy()
        label = np.array([f"{row[1]:.0f}-{VERSION}".encode() for row in y], object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("label", label)])
"""
)

TEXTS = ["one", "a longer text", "\u6771\u4eac"]


def bodies() -> list[bytes]:
    """Return what clients send."""
    return [http_body({"text": np.array([text])[:, None]}) for text in TEXTS]


def spec(name: str, *, twice: bool = False, **changes: Any) -> ModelSpec:
    """
    Return the ensemble: a text's length and a number through a model, to a label of both parts' numbers.

    The model answers with what it is asked, or with that `twice`, in a row of twice the width.
    """
    own = {"serving": {"max_batch_size": 8, "instance_group": {"kind": "cpu", "count": 1}}}
    model = {
        "name": "inner",
        "source": {"checkpoint": "s3://training/ensemble/{{ version }}/model.safetensors"}
        | {"factory": "tests.sandbox.ensemble_factory:build"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [3], "range": [0, 100]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [6 if twice else 3]}],
        "parity": {"batch_sizes": [1, 3]},
        **own,
    }
    steps = [
        {"part": "start", "inputs": {"text": "text"}, "outputs": {"x": "numbers"}},
        {"part": "model", "inputs": {"x": "numbers"}, "outputs": {"y": "same"}},
        {"part": "end", "inputs": {"y": "same"}, "outputs": {"label": "label"}},
    ]
    parts = {
        "start": {"python": "include/start"},
        "model": {"config": "inner", "spec": model},
        "end": {"python": "include/end"},
    }
    values = {
        "name": name,
        "inputs": [{"name": "text", "dtype": "string", "shape": []}],
        "outputs": [{"name": "label", "dtype": "string", "shape": []}],
        "parity": {"batch_sizes": [1, 3]},
        "serving": {"max_batch_size": 4, "ensemble": {"parts": parts, "steps": steps}},
    }
    return ModelSpec.model_validate({**values, **changes})


def write_scripts(include: Path, number: int) -> dict[str, Path]:
    """Write the parts in Python of a version below a folder `include`; returns their files by part."""
    written = {}
    for part, text in {"start": START, "end": END}.items():
        written[part] = include / part / "model.py"
        written[part].parent.mkdir(parents=True, exist_ok=True)
        written[part].write_text(text.replace("VERSION", str(number)))
    return written


def put_checkpoint(environment: Environment, version: int) -> None:
    """Write the checkpoint that the model part's config names for a version."""
    from tests.sandbox.ensemble_factory import build

    body = io.BytesIO(save(build().state_dict())).getvalue()
    key = f"ensemble/{version}/model.safetensors"
    s3_client(environment.s3).put_object(Bucket="training", Key=key, Body=body)


def build(model: Model, version: int, include: Path, number: int) -> Release:
    """A release of a version whose parts in Python tell a number."""
    write_scripts(include, number)
    put_checkpoint(model.environment, version)
    return Release(model.name, version, Kind.BUILD, f"run-{version}", by="tests")


def seal(bench: Bench, made: ModelSpec, version: int, number: int) -> Manifest:
    """Seal a version of the ensemble whose parts in Python tell `number`."""
    folder, archive = bench.folder / f"{made.name}-{version}", Archive(bench.store, made.name)
    files = {f"parts/{part}/model.py": path for part, path in write_scripts(folder / "include", number).items()}
    width = made.model_parts["model"].outputs[0].shape[0]
    repeated = graph(
        [helper.make_node("Concat", ["x"] * (width // 3), ["y"], axis=1)],
        {"x": (TensorProto.FLOAT, ["batch", 3])},
        {"y": (TensorProto.FLOAT, ["batch", width])},
    )
    files[f"parts/model/{MODEL_FILE}"] = folder / MODEL_FILE
    onnx.save_model(repeated, str(folder / MODEL_FILE))
    files["parts/model/warmup/x"] = folder / "x"
    (folder / "x").write_bytes(np.ones(3, np.float32).tobytes())
    entries = {name: archive.write(version, "base", name, path, unclaimed) for name, path in files.items()}
    manifest = Manifest(
        model=made.name, version=version, part="base", contract=1, files=entries, tools={}, summary={},
        source=SourceEntry(uri="s3://training/x", sha256="a" * 64), spec_digest=made.digest,
        release_digest=build_bundle(made, version).digest, run_id="run-1", sealed_at=bench.store.now(),
    )  # fmt: skip
    return archive.seal(manifest, unclaimed)

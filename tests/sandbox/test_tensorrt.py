"""A version of the tensorrt backend, up to where it wants a GPU: the engine is a stand-in's, all else is real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model_release.errors import LoadFailed, TensorRTMissing
from model_release.export import engine
from model_release.ledger.events import Events
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, export, plan, publish, validate
from tests.models.fake_tensorrt import installed
from tests.sandbox.releasing import FIRST, Model


@pytest.fixture
def on_gpus(model: Model) -> Model:
    serving = model.spec.serving
    on_gpu = serving.instance_group.model_copy(update={"kind": "gpu"})
    changed = serving.model_copy(update={"backend": "tensorrt", "instance_group": on_gpu, "parameters": {}})
    return replace(model, spec=model.spec.model_copy(update={"serving": changed}))


def nothing() -> None:
    """Stand for a claim that is never lost."""


def test_an_engine_is_sealed_beside_the_file_that_it_was_built_of_and_alone_is_served(
    on_gpus: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, store = on_gpus.build(FIRST), ObjectStore(on_gpus.environment.s3)
    plan.run(release, on_gpus.environment, on_gpus.spec)
    export.run(release, on_gpus.environment)
    with pytest.raises(TensorRTMissing):
        validate.run(release, on_gpus.environment)

    installed(tmp_path / "packages", monkeypatch)
    monkeypatch.setattr(engine, "cuda_devices", lambda: 1)
    validate.run(release, on_gpus.environment)
    publish.run(release, on_gpus.environment)

    archive, prefix = Archive(store, on_gpus.name), ServingPrefix(store, "default", "blue", on_gpus.name)
    manifest = archive.require(FIRST)
    assert {"model.onnx", "model.plan"} <= set(manifest.files)
    sealed = archive.read_sealed(manifest, "model.plan", tmp_path / "model.plan")
    largest = on_gpus.spec.serving.max_batch_size
    assert [shape[0] for shape in json.loads(sealed.read_bytes())["shapes"]["image"]] == [1, largest, largest]
    [built] = [event for event in Events(store, on_gpus.name).read() if event["what"] == "engine_built"]
    assert (built["tensorrt"], built["sha256"]) == ("10.13.0", manifest.files["model.plan"].sha256)

    prefix.place(archive, manifest, nothing)
    root = f"serving/default/blue/{on_gpus.name}/"
    placed = {entry.key.removeprefix(root) for entry in store.objects(root)}
    assert placed == {f"{FIRST}/model.plan", "warmup/image"}

    with pytest.raises(LoadFailed):  # the sandbox's Tritons have neither the backend nor a GPU
        benchmark.run(release, on_gpus.environment)
    assert on_gpus.state.canary is None

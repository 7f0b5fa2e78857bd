"""Hand-made versions, sealed in an archive and brought onto a fleet of the running sandbox as a release does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_release.environment import Environment
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import MODEL_DATA, MODEL_FILE, WARMUP, ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.triton import config as configs
from model_release.triton.fleet import load_everywhere, prove, unload_everywhere

VERSION = 20260101000000
FLEET = "blue"
Arrays = dict[str, np.ndarray[Any, Any]]
Tensors = Mapping[str, tuple[int, list[Any]]]


def unclaimed() -> None:
    """Stand for a claim that is never lost."""


def spec(name: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], **changes: Any) -> ModelSpec:
    values = {
        "name": name,
        "source": {"checkpoint": "s3://training/x.safetensors", "factory": "example:build"},
        "inputs": inputs,
        "outputs": outputs,
        "parity": {"batch_sizes": [1]},
        "serving": {"max_batch_size": 8, "instance_group": {"kind": "cpu", "count": 1}},
    }
    return ModelSpec.model_validate({**values, **changes})


def graph(nodes: list[Any], inputs: Tensors, outputs: Tensors, **weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """Return a checked graph; tensors are (type, shape) by name, with the batch axis."""
    made = helper.make_graph(
        nodes,
        "hand_made",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def centred() -> onnx.ModelProto:
    """Return the graph of y = x - x.mean(0): every sample's answer depends on the others of its batch."""
    return graph(
        [helper.make_node("ReduceMean", ["x", "first"], ["mean"]), helper.make_node("Sub", ["x", "mean"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
        first=np.array([0], np.int64),
    )


def unbatched(name: str, **changes: Any) -> ModelSpec:
    """Return the spec of `centred`."""
    tensor = {"dtype": "float32", "shape": [4]}
    serving = {"max_batch_size": 0, "instance_group": {"kind": "cpu", "count": 2}}
    return spec(name, [{"name": "x", **tensor}], [{"name": "y", **tensor}], serving=serving, **changes)


def alone(samples: int = 6) -> Arrays:
    """Return recorded samples of `centred`, each asked for by itself: nothing is left of it."""
    x = np.random.default_rng(7).normal(size=(samples, 4)).astype(np.float32)
    return {"input__x": x, "output__y": np.zeros_like(x)}


def saved(model: onnx.ModelProto, folder: Path, *, several: bool) -> dict[str, Path]:
    """Write a graph as export does: in one file, or with its weights in a second one."""
    folder.mkdir(parents=True)
    path = folder / MODEL_FILE
    beside: dict[str, Any] = {"location": MODEL_DATA, "size_threshold": 0} if several else {}
    onnx.save_model(model, str(path), save_as_external_data=several, **beside)
    return {name: folder / name for name in (MODEL_FILE, MODEL_DATA) if (folder / name).exists()}


@dataclass
class Bench:
    """Where a version of a test is archived and served."""

    store: ObjectStore
    environment: Environment
    folder: Path

    def prefix(self, model: str) -> ServingPrefix:
        return ServingPrefix(self.store, "default", FLEET, model)

    def seal(self, made: ModelSpec, files: Mapping[str, Path], recorded: Arrays, version: int = VERSION) -> Manifest:
        """Seal a version with its warm-up inputs, and files that Triton has no use for."""
        archive, entries = Archive(self.store, made.name), {}
        sealed = dict(files)
        for tensor in made.inputs:
            raw = self.folder / f"warmup-{tensor.name}"
            raw.write_bytes(np.ascontiguousarray(recorded[f"input__{tensor.name}"][0]).tobytes())
            sealed[f"{WARMUP}{tensor.name}"] = raw
        for name in ("parity.json", "parity.html", "worst.npz", "recorded.npz"):
            sealed[name] = self.folder / name
            sealed[name].write_bytes(b"for people")
        for name, path in sealed.items():
            entries[name] = archive.write(version, "base", name, path, unclaimed)
        manifest = Manifest(
            model=made.name,
            version=version,
            part="base",
            contract=1,
            source=SourceEntry(uri="s3://training/x", sha256="a" * 64),
            files=entries,
            tools={},
            summary={},
            spec_digest=made.digest,
            release_digest="r",
            run_id="run-1",
            sealed_at=self.store.now(),
        )
        return archive.seal(manifest, unclaimed)

    def serve(self, made: ModelSpec, manifest: Manifest) -> Any:
        """Bring a sealed version onto the fleet, and delete the one before; returns the config asked for."""
        prefix, config = self.prefix(made.name), configs.build_config(made, manifest.version)
        prefix.place(Archive(self.store, made.name), manifest, unclaimed)
        prefix.write_config(configs.render(config, epoch=1), unclaimed)
        fleet = self.environment.pair("default").fleet(FLEET)
        load_everywhere(fleet, made.name, manifest.version, self.environment, unclaimed)
        prefix.keep_only(manifest.version, unclaimed)
        return config

    def proved(self, made: ModelSpec, config: Any, recorded: Arrays) -> list[dict[str, Any]]:
        tolerances = {tensor.name: made.tolerance(tensor.name) for tensor in made.outputs}
        version, fleet = config.version_policy.specific.versions[0], self.environment.pair("default").fleet(FLEET)
        return prove(fleet, made.name, version, config, recorded, tolerances, self.environment)

    def served(self, made: ModelSpec, model: onnx.ModelProto, recorded: Arrays) -> Any:
        """Seal and serve a graph in one file."""
        files = saved(model, self.folder / made.name, several=False)
        return self.serve(made, self.seal(made, files, recorded))

    def keys(self, model: str) -> list[str]:
        """Return what lies in the model's folder of the serving prefix."""
        root = f"serving/default/{FLEET}/{model}/"
        return [entry.key.removeprefix(root) for entry in self.store.objects(root)]

    def clear(self, model: str) -> None:
        unload_everywhere(self.environment.pair("default").fleet(FLEET), model, self.environment, unclaimed)
        self.prefix(model).delete(unclaimed)

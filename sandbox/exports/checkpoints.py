"""An architecture's checkpoint on disk, as a training job would leave it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from model_release.environment import S3, Environment, EnvoyRouter, Fleet, FleetPair, Replica
from model_release.spec import ModelSpec
from sandbox.exports.architecture import MOST_SAMPLES, Architecture

if TYPE_CHECKING:
    from torch import nn

_SUFFIX = {"state_dict": "safetensors", "exported_program": "pt2", "torchscript": "pt"}


def no_servers() -> Environment:
    """Return an environment for files alone."""
    nowhere = Fleet(replicas=[Replica(name="none", http="none", grpc="none", metrics="none")])
    return Environment(
        s3=S3(bucket="none"),
        pairs={"default": FleetPair(blue=nowhere, green=nowhere, bench=nowhere)},
        router=EnvoyRouter(directory=Path(gettempdir()), admin=["none"], http="none"),
    )


def path_of(architecture: Architecture, folder: Path) -> Path:
    """Return where `write` puts the checkpoint."""
    return folder / f"model.{_SUFFIX[architecture.format]}"


def spec_of(architecture: Architecture, path: Path) -> ModelSpec:
    """Return the spec that names, and for a program pins, the checkpoint at `path`."""
    return architecture.spec(path, hashlib.sha256(path.read_bytes()).hexdigest())


def write(architecture: Architecture, folder: Path) -> None:
    """Write the checkpoint into `folder`."""
    path, module = path_of(architecture, folder), architecture.module()
    if architecture.format == "state_dict":
        from safetensors.torch import save_file

        # Cloned, since safetensors refuses tensors that share their memory, as tied weights do.
        save_file({name: value.clone().contiguous() for name, value in module.state_dict().items()}, path)
    elif architecture.format == "torchscript":
        import torch

        torch.jit.save(torch.jit.script(module), str(path))
    else:
        _save_program(architecture, module, path)


def _save_program(architecture: Architecture, module: nn.Module, path: Path) -> None:
    import torch

    from model_release.export.dynamo import example

    spec = architecture.spec(path, "0" * 64)
    batch = torch.export.Dim("batch", min=1, max=MOST_SAMPLES)
    shapes = tuple({0: batch} for _ in spec.inputs)
    torch.export.save(torch.export.export(module, example(spec), dynamic_shapes=shapes), path)

"""Checkpoints that must be refused: some before anything of them is loaded, the rest when they are opened."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe, ReleaseError, TensorsDoNotMatch
from model_release.spec import ModelSpec
from sandbox.exports.checkpoints import no_servers

_MODULES = "sandbox.exports.broken_modules"
VALUES: dict[str, Any] = {
    "name": "refused",
    "inputs": [{"name": "x", "dtype": "float32", "shape": [3], "range": [-3, 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [2]}],
    "serving": {"max_batch_size": 8},
}


def spec_of(path: Path, *, factory: str = "plain", source: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    """Return a spec of a checkpoint of one input x [3] and one output y [2]."""
    built = {"checkpoint": path.as_uri(), **({"factory": f"{_MODULES}:{factory}"} if source is None else source)}
    return ModelSpec.model_validate({**VALUES, "source": built, **changes})


def take(spec: ModelSpec, path: Path, folder: Path) -> None:
    """Fetch the checkpoint, and open it when it is data. Raises what intake does."""
    from model_release.intake import fetch_checkpoint, open_checkpoint

    fetched_in = folder / "fetched"
    fetched_in.mkdir(exist_ok=True)
    fetched = fetch_checkpoint(spec, path.as_uri(), no_servers(), fetched_in)
    if not spec.source.is_code:
        open_checkpoint(spec, fetched)


def state() -> dict[str, Any]:
    """Return the tensors of a sound checkpoint, seeded."""
    import torch

    from sandbox.exports.broken_modules import plain

    torch.manual_seed(7)
    return dict(plain().state_dict())


class _Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def _payload(folder: Path) -> None:
    import torch

    path, mark = folder / "model.pt", folder / "executed"
    torch.save({**state(), "extra": _Payload(mark)}, path)
    try:
        take(spec_of(path), path, folder)
    finally:
        if mark.exists():
            message = "the payload ran"
            raise RuntimeError(message)


def _pickled_module(folder: Path) -> None:
    import torch

    from sandbox.exports.broken_modules import plain

    torch.save(plain(), folder / "model.pt")
    take(spec_of(folder / "model.pt"), folder / "model.pt", folder)


def _bomb(folder: Path) -> None:
    """Only the tensor is compressed: a small archive is to fill the disk or the memory."""
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    take(spec_of(folder / "model.pt"), folder / "model.pt", folder)


def _member(name: str, mode: int, folder: Path) -> None:
    """Add a member to an archive of torch.save that names, or links to, another place."""
    import torch

    path = folder / "model.pt"
    torch.save(state(), path)
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    take(spec_of(path), path, folder)


def _program(folder: Path) -> Path:
    import torch

    from sandbox.exports.broken_modules import plain

    batch = torch.export.Dim("batch", min=1, max=8)
    made = torch.export.export(plain().eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(made, folder / "plain.pt2")
    return folder / "plain.pt2"


def _pickled_member(folder: Path) -> None:
    """Say in the archive's own config that a weight is to be unpickled, and put a payload there."""
    path, mark = folder / "model.pt2", folder / "executed"
    with zipfile.ZipFile(_program(folder)) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            body = old.read(member)
            if member.filename.endswith("weights_config.json"):
                config = json.loads(body)
                for entry in config["config"].values():
                    entry["use_pickle"] = True
                body = json.dumps(config).encode()
            elif "/data/weights/weight_" in member.filename:
                body = pickle.dumps(_Payload(mark))
            new.writestr(member.filename, body)
    take(_pinned(path, "exported_program"), path, folder)


def _pinned(path: Path, form: str) -> ModelSpec:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return spec_of(path, source={"format": form, "allow_code": True, "sha256": sha256})


def _script_as_data(folder: Path) -> None:
    import torch

    from sandbox.exports.broken_modules import plain

    torch.jit.save(torch.jit.script(plain()), str(folder / "model.pt"))
    take(spec_of(folder / "model.pt"), folder / "model.pt", folder)


def _unpinned(folder: Path) -> None:
    """A config that allows a program, and pins no file."""
    from pydantic import ValidationError

    from model_release.errors import BadModelConfig

    path = _program(folder)
    try:
        spec_of(path, source={"format": "exported_program", "allow_code": True})
    except ValidationError as error:
        raise BadModelConfig("refused.yaml", [entry["msg"] for entry in error.errors()]) from error


def _saved(folder: Path, tensors: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def _other_architecture(folder: Path) -> None:
    path = _saved(folder, state())
    take(spec_of(path, factory="Wider"), path, folder)


def _nan(folder: Path) -> None:
    tensors = state()
    tensors["layer.weight"][1, 2] = np.nan
    path = _saved(folder, tensors)
    take(spec_of(path), path, folder)


def _truncated(folder: Path) -> None:
    path = _saved(folder, state())
    path.write_bytes(path.read_bytes()[:-5])
    take(spec_of(path), path, folder)


def _source(changes: dict[str, Any], folder: Path) -> None:
    path = _saved(folder, state())
    take(spec_of(path, source={"factory": f"{_MODULES}:plain", **changes}), path, folder)


Case = tuple[str, str, type[ReleaseError], Callable[[Path], None]]


def _cases() -> list[Case]:
    from model_release.errors import BadModelConfig

    link, plain = 0o120777, 0o100644
    return [
        ("payload", "a .pt whose pickle would run a command", CheckpointUnsafe, _payload),
        ("pickled_module", "a .pt that is a pickled module", CheckpointUnsafe, _pickled_module),
        ("zip_bomb", "a .pt that unpacks to far more than it is", CheckpointUnsafe, _bomb),
        (
            "traversal",
            "an archive with a member outside of it",
            CheckpointUnsafe,
            functools.partial(_member, "../../etc/cron.d/x", plain),
        ),
        ("link", "an archive with a link", CheckpointUnsafe, functools.partial(_member, "model/data/9", link)),
        ("pickled_pt2", "a pinned .pt2 with a pickled member", CheckpointUnsafe, _pickled_member),
        ("script_as_data", "TorchScript where the spec says state_dict", CheckpointUnreadable, _script_as_data),
        ("unpinned_code", "a program that no sha256 pins", BadModelConfig, _unpinned),
        ("other_architecture", "the weights of another architecture", TensorsDoNotMatch, _other_architecture),
        ("nan_weights", "a weight that is NaN", CheckpointUnreadable, _nan),
        ("truncated", "a safetensors file cut off", CheckpointUnreadable, _truncated),
        (
            "other_sha256",
            "other bytes than the pinned",
            CheckpointUnreadable,
            functools.partial(_source, {"sha256": "0" * 64}),
        ),
        ("too_large", "a file over max_bytes", CheckpointUnreadable, functools.partial(_source, {"max_bytes": 64})),
    ]


CASES = _cases()

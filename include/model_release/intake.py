"""Intake: a checkpoint's tensors into the module that a factory builds. Nothing of the file is executed."""

from __future__ import annotations

import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from model_release.environment import Environment
from model_release.errors import CheckpointUnreadable, FactoryFailed, TensorsDoNotMatch
from model_release.repository.uris import fetch
from model_release.spec import ModelSpec, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

_SAFETENSORS = (".safetensors",)
_PICKLED = (".pt", ".pth")
#: What torch.load says of the first thing that it would have had to execute.
_FORBIDDEN = re.compile(r"(?:GLOBAL|Unsupported class)\s+(?:GLOBAL\s+)?([\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, and the module in eval mode that holds its tensors."""

    uri: str
    sha256: str
    size_bytes: int
    module: nn.Module


def load_model(spec: ModelSpec, checkpoint_uri: str, environment: Environment, folder: Path) -> Checkpoint:
    """
    Fetch a state_dict (.safetensors, .pt, .pth) into `folder` and load it into the factory's module.

    The factory is the user's own code and runs; the checkpoint is data and does not. Raises CheckpointMissing,
    CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed, StoreUnavailable.
    """
    source = spec.source
    suffix = PurePosixPath(urlsplit(checkpoint_uri).path).suffix.lower()
    if suffix not in (*_SAFETENSORS, *_PICKLED):
        raise CheckpointUnreadable(checkpoint_uri, f"{suffix or 'no suffix'!r} is no known kind of file")
    module = _build(source)
    fetched = fetch(
        checkpoint_uri,
        folder / f"checkpoint{suffix}",
        environment,
        max_bytes=source.max_bytes,
        sha256=source.sha256,
    )
    if fetched.size_bytes == 0:
        raise CheckpointUnreadable(checkpoint_uri, "it is empty")
    tensors = _read_safetensors(checkpoint_uri, fetched.path) if suffix in _SAFETENSORS else None
    if tensors is None:
        tensors = _read_pickled(checkpoint_uri, fetched.path)
    _fill(module, tensors, checkpoint_uri, source)
    return Checkpoint(checkpoint_uri, fetched.sha256, fetched.size_bytes, module)


def _build(source: Source) -> nn.Module:
    """Import and call the factory. Raises FactoryFailed."""
    from torch import nn

    name, function = source.factory.split(":")
    try:
        factory = getattr(importlib.import_module(name), function, None)
    except Exception as error:
        raise FactoryFailed(source.factory, f"importing {name} gives {_one_line(error)}") from error
    if not callable(factory):
        raise FactoryFailed(source.factory, f"{name} has no function {function!r}")
    try:
        module = factory(**source.factory_kwargs)
    except Exception as error:
        raise FactoryFailed(source.factory, f"calling it gives {_one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise FactoryFailed(source.factory, f"it returned a {type(module).__name__}")
    return module


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _read_safetensors(uri: str, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if zipfile.is_zipfile(path):
        raise CheckpointUnreadable(uri, "it is named .safetensors, but is a file of torch.save")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointUnreadable(uri, f"it is no whole safetensors file ({' '.join(str(error).split())})") from None
    return tensors


def _read_pickled(uri: str, path: Path) -> dict[str, Tensor]:
    """Read a file of torch.save with weights_only, which builds tensors and plain containers and nothing else."""
    import torch

    zipped = zipfile.is_zipfile(path)
    _refuse_code(uri, path, zipped)
    try:
        # Only the zip format can be mapped; a mapped file is read tensor by tensor, as the module takes it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise CheckpointUnreadable(uri, _unpickling_problem(str(error))) from None
    except Exception as error:
        # A damaged file surfaces as almost any error of the unpickler or the zip reader.
        raise CheckpointUnreadable(uri, f"it is damaged or no file of torch.save ({_one_line(error)})") from None
    return _state_dict(uri, content)


def _refuse_code(uri: str, path: Path, zipped: bool) -> None:
    """Refuse the archives of torch.jit and torch.export, which are programs."""
    if not zipped:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            files = {PurePosixPath(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointUnreadable(uri, f"it is damaged ({error})") from None
    for mark, what in (("constants.pkl", "a TorchScript program"), ("archive_format", "an exported program")):
        if mark in files:
            raise CheckpointUnreadable(uri, f"it is {what}, which is code and not a state_dict")


def _unpickling_problem(message: str) -> str:
    found = _FORBIDDEN.search(message)
    if found:
        return f"it is a pickle that wants to run {found.group(1)}, and nothing of a checkpoint is run"
    return "it is damaged, or a pickle of more than tensors, and nothing of a checkpoint is run"


def _state_dict(uri: str, content: Any) -> dict[str, Tensor]:
    """Return the content if it is a flat mapping of names to tensors. Raises CheckpointUnreadable."""
    import torch

    if not isinstance(content, Mapping):
        raise CheckpointUnreadable(uri, f"it holds a {type(content).__name__}, not a state_dict")
    foreign = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        shown = ", ".join(foreign[:5])
        raise CheckpointUnreadable(uri, f"it holds more than tensors ({shown}): save model.state_dict() alone")
    return {str(key): value for key, value in content.items()}


def _fill(module: nn.Module, tensors: dict[str, Tensor], uri: str, source: Source) -> None:
    """Put the tensors into the module, all of them and no others, and put it into eval mode."""
    own = module.state_dict()
    given = {own[name].data_ptr() for name in tensors if name in own}
    # safetensors keeps one name of tensors that share memory: the others are there with it.
    missing = [name for name in own if name not in tensors and own[name].data_ptr() not in given]
    unexpected = [name for name in tensors if name not in own]
    misshaped = [
        f"{name} {_shown(tensors[name])} for {_shown(own[name])}"
        for name in own
        if name in tensors and not _fits(tensors[name], own[name])
    ]
    if missing or unexpected or misshaped:
        raise TensorsDoNotMatch(uri, source.factory, missing, unexpected, misshaped)
    _refuse_nan(uri, tensors)
    module.load_state_dict(tensors, strict=False)
    module.eval().requires_grad_(False)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    """Say whether the shapes agree and no rounding to whole numbers would hide in the copy."""
    return bool(tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point())


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _refuse_nan(uri: str, tensors: dict[str, Tensor]) -> None:
    """Refuse weights of a training that diverged: NaN equals NaN, so parity alone would let them pass."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise CheckpointUnreadable(uri, f"the tensor {name} holds NaN, as after a training that diverged")

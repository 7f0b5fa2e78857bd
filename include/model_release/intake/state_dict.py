"""A checkpoint's tensors into the module that a factory built. Nothing of the file is executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release.errors import CheckpointUnreadable, TensorsDoNotMatch
from model_release.intake.factory import one_line
from model_release.spec import Source

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What torch.load says of the first thing that it would have had to execute.
_FORBIDDEN = re.compile(r"(?:GLOBAL|Unsupported class)\s+(?:GLOBAL\s+)?([\w.]+)")


def load_into(module: nn.Module, uri: str, path: Path, source: Source) -> None:
    """
    Load a state_dict (.safetensors, .pt, .pth) into a module, whole, and put it into eval mode.

    The file is mapped, and read tensor by tensor as the module takes it: memory holds the module and one tensor.
    Floats are converted to the module's own float type, which may round (float32 into float16) but not overflow. Whole
    numbers may be widened, and nothing else is converted. Raises CheckpointUnreadable, TensorsDoNotMatch.
    """
    tensors = _read_safetensors(uri, path) if path.suffix == ".safetensors" else _read_pickled(uri, path)
    fill(module, tensors, uri, source)


def _read_safetensors(uri: str, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointUnreadable(uri, f"it is no whole safetensors file ({' '.join(str(error).split())})") from None
    return tensors


def _read_pickled(uri: str, path: Path) -> dict[str, Tensor]:
    """Read a file of torch.save with weights_only, which builds tensors and plain containers and nothing else."""
    import torch

    zipped = zipfile.is_zipfile(path)
    try:
        # Only the zip format can be mapped; a mapped file is read tensor by tensor, as the module takes it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise CheckpointUnreadable(uri, _unpickling_problem(str(error))) from None
    except Exception as error:
        # A damaged file surfaces as almost any error of the unpickler or the zip reader.
        raise CheckpointUnreadable(uri, f"it is damaged or no file of torch.save ({one_line(error)})") from None
    return _state_dict(uri, content)


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
    for key, value in content.items():
        # A meta tensor is a shape without values; a sparse one cannot be copied into a module.
        if value.layout != torch.strided or value.device.type != "cpu":
            kind = value.device.type if value.device.type != "cpu" else str(value.layout).removeprefix("torch.")
            raise CheckpointUnreadable(uri, f"its tensor {key} is {kind}, and not a plain tensor with values")
    return {str(key): value for key, value in content.items()}


def fill(module: nn.Module, tensors: dict[str, Tensor], uri: str, source: Source) -> None:
    """
    Put the tensors into the module, all of them and no others, and put it into eval mode.

    Raises CheckpointUnreadable, TensorsDoNotMatch.
    """
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
        raise TensorsDoNotMatch(uri, source.factory or "", missing, unexpected, misshaped)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            _refuse_lost_values(uri, name, tensor, own[name])
    module.load_state_dict(tensors, strict=False)
    module.eval().requires_grad_(False)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    """Say whether the shapes agree, and the values go into the module's own type."""
    import torch

    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        return False
    return tensor.is_floating_point() or bool(torch.promote_types(tensor.dtype, own.dtype) == own.dtype)


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _refuse_lost_values(uri: str, name: str, tensor: Tensor, own: Tensor) -> None:
    """
    Refuse NaN, as of a training that diverged, and numbers that the module's own type cannot hold.

    The module would be its own reference, so parity alone would let both pass.
    """
    import torch

    # Not every type of 8 bits knows isnan.
    wide = tensor.float() if tensor.itemsize == 1 else tensor
    if bool(wide.isnan().any()):
        raise CheckpointUnreadable(uri, f"the tensor {name} holds NaN, as after a training that diverged")
    narrows = torch.promote_types(wide.dtype, own.dtype) != own.dtype
    if narrows and bool((wide.to(own.dtype).isfinite() != wide.isfinite()).any()):
        raise CheckpointUnreadable(
            uri,
            f"the tensor {name} holds numbers that overflow in the module's {str(own.dtype).removeprefix('torch.')}",
        )

"""The user's samples and golden sets: files of inputs, checked against the spec."""

from __future__ import annotations

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.environment import Environment
from model_release.errors import CheckpointMissing, CheckpointUnreadable, SamplesUnusable, did_you_mean
from model_release.parity.samples import is_of
from model_release.repository.uris import fetch
from model_release.spec import Input, ModelSpec

LABEL = "label"
_MAX_BYTES = 2 * 2**30

Arrays = dict[str, npt.NDArray[Any]]


def load_samples(uri: str, spec: ModelSpec, environment: Environment, with_label: bool = False) -> Arrays:
    """
    Read an .npz of samples: one array for each input of the spec, batch first; with `with_label` also `label` [n].

    Raises SamplesUnusable (nothing of the file is executed), StoreUnavailable.
    """
    with TemporaryDirectory() as folder:
        try:
            path = fetch(uri, Path(folder) / "samples.npz", environment, max_bytes=_MAX_BYTES).path
        except (CheckpointMissing, CheckpointUnreadable) as error:
            raise SamplesUnusable(uri, _fetch_problem(error)) from None
        arrays = _read(uri, path)
    check_samples(spec, arrays, uri, with_label)
    return {name: array for name, array in arrays.items() if with_label or name != LABEL}


def check_samples(spec: ModelSpec, arrays: Arrays, where: str, with_label: bool = False) -> None:
    """Hold samples that came from `where` against the spec. Raises SamplesUnusable."""
    problem = _problem(spec, arrays, with_label)
    if problem:
        raise SamplesUnusable(where, problem)


def _fetch_problem(error: CheckpointMissing | CheckpointUnreadable) -> str:
    if isinstance(error, CheckpointMissing):
        return "nothing lies there"
    return f"it is larger than {_MAX_BYTES} bytes"


def _read(uri: str, path: Path) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise SamplesUnusable(uri, "it is no whole .npz file; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise SamplesUnusable(uri, f"it cannot be read without executing it, or is damaged ({error})") from None


def _problem(spec: ModelSpec, arrays: Arrays, with_label: bool) -> str:
    """Return what is wrong with the arrays, or an empty string."""
    names = [tensor.name for tensor in spec.inputs]
    allowed = [*names, LABEL]
    missing = [name for name in [*names, *([LABEL] if with_label else [])] if name not in arrays]
    if missing:
        return f"the arrays {missing} are missing, it holds {sorted(arrays)}"
    for name in arrays:
        if name not in allowed:
            return f"it holds the array {name!r}, which is no input.{did_you_mean(name, allowed)}"
    if len({array.shape[:1] for array in arrays.values()}) > 1:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        return f"the arrays differ in their number of samples, the first axis: {shapes}"
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        problem = _tensor_problem(spec, tensor, arrays[tensor.name], sizes)
        if problem:
            return problem
    return _label_problem(arrays[LABEL]) if with_label else ""


def _tensor_problem(spec: ModelSpec, tensor: Input, array: npt.NDArray[Any], sizes: dict[str, int]) -> str:
    """Compare one array with its input; `sizes` collects the sizes of the named axes."""
    if not is_of(tensor, array):
        return f"{tensor.name!r} is {array.dtype}, the spec says {tensor.dtype}"
    shape = f"{tensor.name!r} has the shape {list(array.shape)}, the spec says [samples, {str(tensor.shape)[1:]}"
    if array.ndim != len(tensor.shape) + 1 or len(array) == 0:
        return shape
    for size, axis in zip(array.shape[1:], tensor.shape, strict=True):
        if isinstance(axis, int):
            if size != axis:
                return shape
            continue
        bounds = spec.dynamic_axes[axis]
        if sizes.setdefault(axis, size) != size:
            return f"axis {axis!r} is {sizes[axis]} in one input and {size} in {tensor.name!r}"
        if not bounds.min <= size <= bounds.max:
            return f"axis {axis!r} of {tensor.name!r} is {size}, the spec allows {bounds.min} to {bounds.max}"
    return ""


def _label_problem(label: npt.NDArray[Any]) -> str:
    if label.ndim != 1 or label.dtype.kind not in "iu":
        return f"'label' must be one whole number a sample, got {label.dtype}{list(label.shape)}"
    return ""

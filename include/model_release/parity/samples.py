"""Generated inputs for parity: random values, and the edges of what the spec allows; seeded, so the same each time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.parity import texts
from model_release.spec import TEXT, Input, ModelSpec, Tensor

#: What is generated for an input without a `range`: small, so that an index stays inside most tables.
_DEFAULT_RANGE = {"f": (-1.0, 1.0), "u": (0.0, 9.0), "i": (0.0, 9.0), "b": (0.0, 1.0)}

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def middle_axes(spec: ModelSpec) -> dict[str, int]:
    """Return a size for each dynamic axis, away from its ends and from the others' sizes."""
    return {
        name: min(axis.max, max(axis.min, min(16, (axis.min + axis.max) // 2)) + offset)
        for offset, (name, axis) in enumerate(sorted(spec.dynamic_axes.items()))
    }


def is_of(tensor: Tensor, array: Array) -> bool:
    """Say whether an array has the type of a tensor; of text any width."""
    return array.dtype.kind == "U" if tensor.dtype == TEXT else array.dtype == np.dtype(tensor.dtype)


def same_type(one: Array, other: Array) -> bool:
    """Say whether two arrays have one type; texts of any width have."""
    return one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "U"


def bounds_of(tensor: Input) -> tuple[float, float]:
    """Return the bounds of generated values, both included, inside of what the dtype holds; whole ones as such."""
    dtype = np.dtype(tensor.dtype)
    low, high = tensor.range or _DEFAULT_RANGE[dtype.kind]
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return max(low, float(limits.min)), min(high, float(limits.max))
    least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return max(math.ceil(low), least), min(math.floor(high), most)


def shape_of(tensor: Input, count: int, axes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of `count` samples of an input, at these sizes of the dynamic axes."""
    return (count, *(axes[axis] if isinstance(axis, str) else axis for axis in tensor.shape))


def is_mask(tensor: Input) -> bool:
    """
    Return whether an input says which places of a sample count: zeros and ones along an axis.

    Booleans are taken for a mask only along a dynamic axis or by their name, since they may be flags as well.
    """
    if tensor.dtype == TEXT:
        return False
    dtype = np.dtype(tensor.dtype)
    if dtype.kind not in "iub" or bounds_of(tensor) != (0, 1) or not tensor.shape:
        return False
    return dtype.kind != "b" or "mask" in tensor.name or any(isinstance(axis, str) for axis in tensor.shape)


def _unmasked(array: Array) -> Array:
    """Let no sample of a mask be all zero: nothing is left to answer from, and models divide by its sum."""
    flat = array.reshape(len(array), -1)
    flat[~flat.any(axis=1), 0] = 1
    return flat.reshape(array.shape)


def generate(spec: ModelSpec, count: int, seed: int, axes: Mapping[str, int]) -> Arrays:
    """Return `count` random samples within the ranges of the spec; the same seed gives the same samples."""
    random = np.random.default_rng(seed)
    made: Arrays = {}
    for tensor in spec.inputs:
        shape = shape_of(tensor, count, axes)
        if tensor.dtype == TEXT:
            made[tensor.name] = texts.generate(random, shape, tensor.examples)
            continue
        low, high = bounds_of(tensor)
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            share = random.random(shape)
            # As a weighted mean, since high - low may be more than float64 holds.
            array = (low * (1 - share) + high * share).astype(dtype)
        else:
            array = random.integers(int(low), int(high), shape, dtype=dtype.type, endpoint=True)
        made[tensor.name] = _unmasked(array) if is_mask(tensor) and array.size else array
    return made


def with_full_masks(spec: ModelSpec, samples: Arrays) -> Arrays:
    """Return the samples with every place of their masks counting."""
    masks = {tensor.name for tensor in spec.inputs if is_mask(tensor)}
    return {name: np.ones_like(array) if name in masks else array for name, array in samples.items()}


def edges(spec: ModelSpec, axes: Mapping[str, int]) -> list[tuple[str, Arrays]]:
    """
    Return one sample for each edge of what the spec allows, with its name for people; masks are never all zero.

    Even values (zeros, ones, all lowest, all highest, and the smallest whose squares are normal numbers), each held
    inside the range; for masks also padding on either side, of several lengths.
    """
    found: list[tuple[str, Arrays]] = []
    for name, sample in [*_levels(spec, axes), *_paddings(spec, axes)]:
        same = next((at for at, (_, other) in enumerate(found) if _equal(sample, other)), None)
        if same is None:
            found.append((name, sample))
        else:
            found[same] = (f"{found[same][0]} = {name}", found[same][1])
    return found


def _equal(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _levels(spec: ModelSpec, axes: Mapping[str, int]) -> list[tuple[str, Arrays]]:
    names = ["zeros", "ones", "all lowest", "all highest"]
    if all(tensor.dtype == TEXT for tensor in spec.inputs):
        names = list(texts.EDGES)
    if any(tensor.dtype.startswith("float") for tensor in spec.inputs):
        names.append("small numbers")
    return [
        (name, {tensor.name: _level(name, tensor, shape_of(tensor, 1, axes)) for tensor in spec.inputs})
        for name in names
    ]


def _level(name: str, tensor: Input, shape: tuple[int, ...]) -> Array:
    """Return one sample of an input at a level, cut to its range."""
    if tensor.dtype == TEXT:
        return np.full(shape, np.array(texts.edge(name)))
    if is_mask(tensor):
        return np.ones(shape, tensor.dtype)
    dtype, (low, high) = np.dtype(tensor.dtype), bounds_of(tensor)
    # Below, squares vanish, and every norm divides by zero in its own way.
    small = 2.0 ** math.ceil(np.finfo(dtype).minexp / 2) if dtype.kind == "f" else 0
    value = {"zeros": 0, "ones": 1, "all lowest": low, "all highest": high, "small numbers": small}[name]
    return np.full(shape, min(max(value, low), high), dtype)


def _paddings(spec: ModelSpec, axes: Mapping[str, int]) -> list[tuple[str, Arrays]]:
    """Return samples that are padded on one side: of length 1, of half the length, and all but one."""
    masks = [tensor for tensor in spec.inputs if is_mask(tensor) and len(tensor.shape) == 1]
    if not masks:
        return []
    axis = masks[0].shape[0]
    length = axes[axis] if isinstance(axis, str) else axis
    base = with_full_masks(spec, generate(spec, 1, spec.parity.seed, axes))
    made = []
    for kept in sorted({1, max(1, length // 2), max(1, length - 1)} - {length}):
        for side in ("right", "left"):
            counts = np.arange(length) < kept if side == "right" else np.arange(length) >= length - kept
            made.append((f"{kept} of {length}, padded on the {side}", _padded(spec, base, axis, counts)))
    half = np.arange(length) < max(1, length // 2)
    kept_values = {
        tensor.name: np.where(half, base[tensor.name], 0).astype(tensor.dtype)
        if tensor in masks and tensor.shape == [axis]
        else base[tensor.name]
        for tensor in spec.inputs
    }
    return [*made, ("values under a mask of half the length", kept_values)]


def _padded(spec: ModelSpec, sample: Arrays, axis: int | str, counts: Array) -> Arrays:
    """Set the mask, and every input along the same axis, to zero (or the nearest in range) where nothing counts."""
    padded: Arrays = {}
    for tensor in spec.inputs:
        array = sample[tensor.name].copy()
        if tensor.shape and tensor.shape[0] == axis and (isinstance(axis, str) or len(tensor.shape) == 1):
            low, high = bounds_of(tensor)
            array[:, ~counts] = np.asarray(min(max(0, low), high), tensor.dtype)
        padded[tensor.name] = array
    return padded


def cycled(samples: Arrays, count: int, start: int = 0) -> Arrays:
    """Return `count` samples from `start` on, from the front again after the last."""
    index = (np.arange(count) + start) % len(next(iter(samples.values())))
    return {name: array[index] for name, array in samples.items()}


def joined(samples: list[Arrays]) -> Arrays:
    """Return samples one after the other, as one batch."""
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def count_of(samples: Arrays) -> int:
    """Return how many samples there are."""
    return len(next(iter(samples.values())))

"""
The plan of a proof: which batches are put in, small enough to be made and many enough to mean something.

Each case has a name for the report, and one for each of its samples. The plan depends on the spec and the samples
alone, so that two proofs of a file are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.parity import samples as sets
from model_release.parity.samples import Arrays
from model_release.spec import ModelSpec

#: Real samples that the largest batch size sees, and that each other one does, in so many batches at most.
_REAL, _REAL_OTHERS, _BATCHES_OTHERS = 128, 32, 8
#: Batches of generated samples that a batch size other than the largest sees.
_GENERATED_OTHERS = 6
#: Samples that the name of a case names.
_NAMED = 3
#: Samples whose answers alone and among others are compared.
PROBES = 8
#: Elements of inputs and outputs together that one case may have: 256 MB of float32.
MOST_ELEMENTS = 2**26


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison, batch axis first; `labels` name each sample, `details` all that `name` leaves out."""

    name: str
    inputs: Arrays
    labels: list[str]
    details: str = ""

    @property
    def size(self) -> int:
        """The batch size."""
        return len(self.labels)


def axes_of(spec: ModelSpec, samples: Arrays | None) -> dict[str, int]:
    """Return the sizes of the dynamic axes: those of the samples, else middle ones."""
    axes = sets.middle_axes(spec)
    if samples:
        for tensor in spec.inputs:
            for axis, size in zip(tensor.shape, samples[tensor.name].shape[1:], strict=True):
                if isinstance(axis, str):
                    axes[axis] = size
    return axes


def plan(spec: ModelSpec, samples: Arrays | None) -> Iterator[Case]:
    """Yield every case of a proof: at each batch size real and generated samples, then the ends of the axes."""
    sizes = spec.batch_sizes
    for size in sizes:
        if samples:
            yield from _real(spec, samples, size, largest=size == sizes[-1])
        yield from _generated(spec, size, largest=size == sizes[-1])
    for name, axes in _ends(spec):
        yield _end(spec, sizes[0], name, axes)


def most_real(spec: ModelSpec) -> int:
    """Return how many of the user's samples the largest batch size may see."""
    size = spec.batch_sizes[-1]
    return -(-_REAL // size) * size


def _real(spec: ModelSpec, samples: Arrays, asked: int, *, largest: bool) -> Iterator[Case]:
    count = sets.count_of(samples)
    size, cut = fitting(spec, asked, axes_of(spec, samples))
    batches = -(-min(count, _REAL if largest else _REAL_OTHERS) // size)
    for batch in range(batches if largest else min(batches, _BATCHES_OTHERS)):
        start = batch * size
        labels = [f"sample {(start + place) % count}" for place in range(size)]
        what = f"{labels[0]}" if size == 1 else f"{labels[0]} to {labels[-1].removeprefix('sample ')}"
        again = ", from the first on again" if start + size > count else ""
        yield Case(f"batch size {size}{cut}: {what}{again}", sets.cycled(samples, size, start), labels)


def _generated(spec: ModelSpec, asked: int, *, largest: bool) -> Iterator[Case]:
    """Yield random values and edges, in one batch where they fit: a sample's place there must not matter anyway."""
    axes = sets.middle_axes(spec)
    size, cut = fitting(spec, asked, axes)
    pool = sets.edges(spec, axes)
    batches = len(pool) // size + 1
    if not largest:
        batches = min(batches, _GENERATED_OTHERS)
    pool = pool[: batches * size - 1]
    random = sets.generate(spec, batches * size - len(pool), spec.parity.seed + asked, axes)
    labels = ["random values"] * (batches * size - len(pool)) + [name for name, _ in pool]
    everything = sets.joined([random, *(sample for _, sample in pool)])
    for start in range(0, len(labels), size):
        chosen = labels[start : start + size]
        inputs = {name: array[start : start + size] for name, array in everything.items()}
        names = list(dict.fromkeys(chosen))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        what = f"batch size {size}{cut}: "
        yield Case(what + ", ".join(names[:_NAMED]) + more, inputs, chosen, what + ", ".join(names))


def _ends(spec: ModelSpec) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield sizes of the dynamic axes at their ends: all together, and where there are several each alone."""
    middle = sets.middle_axes(spec)
    for end, attribute in (("shortest", "min"), ("longest", "max")):
        ends = {name: int(getattr(axis, attribute)) for name, axis in spec.dynamic_axes.items()}
        if len(ends) > 1:
            for name, size in ends.items():
                yield f"the {end} {name}", {**middle, name: size}
        if ends:
            yield f"the {end} {' and '.join(ends)}", ends


def _end(spec: ModelSpec, asked: int, name: str, axes: dict[str, int]) -> Case:
    """Return random values at an end of the axes, which are cut where one sample would be too large."""
    fits = dict(axes)
    while _elements(spec, fits) > MOST_ELEMENTS and max(fits.values()) > 1:
        widest = max(fits, key=lambda axis: fits[axis])
        fits[widest] //= 2
    shorter = [f"{axis} {fits[axis]} instead of {size}" for axis, size in axes.items() if fits[axis] < size]
    label = f"{name} ({', '.join(shorter)}, to fit into memory)" if shorter else name
    size, cut = fitting(spec, asked, fits)
    inputs = sets.with_full_masks(spec, sets.generate(spec, size, spec.parity.seed + asked, fits))
    return Case(f"batch size {size}{cut}: {label}", inputs, [label] * size)


def _elements(spec: ModelSpec, axes: Mapping[str, int]) -> int:
    """Return how many elements the inputs and outputs of one sample have."""
    return sum(
        int(np.prod([axes.get(axis, 1) if isinstance(axis, str) else axis for axis in tensor.shape], dtype=np.int64))
        for tensor in (*spec.inputs, *spec.outputs)
    )


def fitting(spec: ModelSpec, asked: int, axes: Mapping[str, int]) -> tuple[int, str]:
    """Return the batch size that fits into memory, and words for the report where it is another one."""
    size = min(asked, max(1, MOST_ELEMENTS // max(1, _elements(spec, axes))))
    return size, "" if size == asked else f" (of {asked}, to fit into memory)"


def probes(spec: ModelSpec, samples: Arrays | None) -> Case:
    """Return up to 8 samples that differ as much as they can: real, random and edges by turns, masks full or not."""
    axes = axes_of(spec, samples)
    size, _ = fitting(spec, min(PROBES, spec.serving.max_batch_size or spec.batch_sizes[-1]), axes)
    generated = sets.generate(spec, size, spec.parity.seed, axes)
    parts: list[tuple[list[str], Arrays]] = [(["random values"] * size, generated)]
    edges = sets.edges(spec, axes)
    parts.append(([name for name, _ in edges], sets.joined([sample for _, sample in edges])))
    if samples:
        parts.insert(0, ([f"sample {place}" for place in range(sets.count_of(samples))], samples))
    labels, chosen = [], []
    for place in range(size):
        names, arrays = parts[place % len(parts)]
        at = place // len(parts)
        labels.append(names[at % len(names)])
        chosen.append(sets.cycled(arrays, 1, at))
    return Case("samples that differ", sets.joined(chosen), labels)


def among(spec: ModelSpec, probe: Case, size: int, axes: Mapping[str, int]) -> tuple[Arrays, npt.NDArray[Any]]:
    """Return a batch with the first probes spread over it among random strangers, and their places in it."""
    kept = min(probe.size, size)
    places = np.unique(np.linspace(0, size - 1, kept).round().astype(np.int64))
    batch = sets.generate(spec, size, spec.parity.seed + 1, axes)
    for name, array in batch.items():
        own = probe.inputs[name][: len(places)]
        batch[name] = array.astype(np.promote_types(array.dtype, own.dtype))  # a wider text would be cut
        batch[name][places] = own
    return batch, places

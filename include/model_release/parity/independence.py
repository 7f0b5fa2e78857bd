"""
Batch independence: f(concat(a, b)) = concat(f(a), f(b)), wherever a sample stands and whoever stands beside it.

Triton puts the requests of strangers into one batch. A model whose answers depend on that batch gives other answers
under load than alone, and nobody sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model_release.errors import BatchDependent, OnnxUnusable
from model_release.parity.cases import Case, among, axes_of, fitting
from model_release.parity.compare import compare
from model_release.parity.report import Independence
from model_release.parity.samples import Arrays
from model_release.spec import ModelSpec

Ask = Callable[[Arrays, str], Arrays]


def sizes_of(spec: ModelSpec) -> list[int]:
    """
    Return the batch sizes in which samples are looked at among others, rising.

    All that parity is proved at, eight, and the largest that is served: kernels change with the size of a matrix.
    """
    most = spec.serving.max_batch_size
    sizes = {*spec.batch_sizes, *({min(8, most), most} if most else ())}
    return sorted(size for size in sizes if size > 1)


def find_dependence(spec: ModelSpec, ask: Ask, provider: str, probe: Case, real: Arrays | None) -> list[Independence]:
    """
    Compare each probe alone with itself among strangers, at several sizes, and the largest batch with itself turned.

    Raises OnnxUnusable where `ask` does, or where shapes change with the batch.
    """
    axes = axes_of(spec, real)
    sizes = sorted({fitting(spec, size, axes)[0] for size in sizes_of(spec)} - {1})
    if not sizes:
        return []
    alone = [
        ask({name: array[place : place + 1] for name, array in probe.inputs.items()}, f"{label} alone")
        for place, label in enumerate(probe.labels)
    ]
    rows: list[Independence] = []
    batch, together = probe.inputs, {}
    for size in sizes:
        # A batch of the probes themselves has the most different neighbours; larger ones are filled up.
        batch, places = (
            ({name: array[:size] for name, array in probe.inputs.items()}, np.arange(size))
            if size <= probe.size
            else among(spec, probe, size, axes)
        )
        together = ask(batch, f"{size} different samples")
        expected = {name: np.concatenate([answer[name] for answer in alone[: len(places)]]) for name in together}
        got = {name: answer[places] for name, answer in together.items()}
        rows += _compared(spec, provider, "neighbours", size, got, expected)
    rows += _turned(spec, ask, provider, batch, together)
    return rows


def _turned(spec: ModelSpec, ask: Ask, provider: str, batch: Arrays, answers: Arrays) -> Iterator[Independence]:
    """Give every sample of a batch another place: by about half a batch, and by an odd number of places."""
    size = len(next(iter(batch.values())))
    order = np.roll(np.arange(size), size // 2 | 1)
    turned = ask({name: array[order] for name, array in batch.items()}, f"{size} samples in another order")
    expected = {name: answer[order] for name, answer in answers.items()}
    return _compared(spec, provider, "place", size, turned, expected)


def _compared(
    spec: ModelSpec, provider: str, against: Any, size: int, got: Arrays, expected: Arrays
) -> Iterator[Independence]:
    for tensor in spec.outputs:
        answer, wanted = got[tensor.name], expected[tensor.name]
        if answer.shape != wanted.shape:
            shapes = f"{list(wanted.shape[1:])} alone and {list(answer.shape[1:])} among {size}"
            raise OnnxUnusable(spec.name, f"output {tensor.name!r} of one sample has the shape {shapes}")
        found = compare(answer, wanted, spec.tolerance(tensor.name))
        yield Independence(
            output=tensor.name,
            provider=provider,
            batch_size=size,
            against=against,
            elements=found.elements,
            differing=found.differing,
            max_abs=min(found.worst_abs, float(np.finfo(np.float64).max)),
        )


def failure_of(spec: ModelSpec, rows: list[Independence], module_too: bool | None) -> BatchDependent | None:
    """Return the error for the output that depends on its batch most, or None."""
    broken = [row for row in rows if row.differing]
    if not broken:
        return None
    # What depends on the place shows among neighbours as well; the place is then what is to blame.
    by_place = {row.output for row in broken if row.against == "place"}
    worst = max(broken, key=lambda row: (row.output in by_place, row.against == "place", row.max_abs))
    allowed = str(spec.tolerance(worst.output))
    return BatchDependent(
        spec.name, worst.output, worst.batch_size, worst.max_abs, allowed, on=worst.against, module_too=module_too
    )

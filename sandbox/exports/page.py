"""docs/exports.md: the tables as Markdown."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from tempfile import gettempdir
from typing import Any

from sandbox.exports.architecture import MOST_SAMPLES, Architecture
from sandbox.exports.measure import Row, ratios, usable
from sandbox.exports.refusals import Refusal

_TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime-gpu", "numpy", "safetensors")
_HEADER = """# What exports, what is refused, and what it costs

Written by `make show-exports`; not by hand. Each case is run in a process of its own with one thread of OpenMP, as
many at a time as there are cores ({cores}), after the libraries are imported: seconds are of the work alone, peak
memory is of the whole process, {libraries} MB of which are the libraries.
"""
_ARCHITECTURES = """
## Architectures: {passed} of {total} exported and proved

Every row is the way of a release: the checkpoint fetched and looked into, the module built and exported with a dynamic
batch of 1 to {most} samples and the dynamic axes of its inputs, the file checked, then held against PyTorch at batches
of 1, 3 and {most} with generated and edge inputs, and asked whether answers depend on neighbours or on the place in the
batch. Weights are real (shipped in a package), trained here on real data, or random (seeded, norms and biases stirred,
built from the architecture's own config at a modest size).
"""
_REFUSALS = """
## Refusals: {right} of {total}

The class is what a program sees, the sentence is what a person reads.
"""
_RATIOS = """
## Against a hand-written script

`torch.onnx.export(dynamo=True)`, one onnxruntime session, one `numpy.allclose` on one batch, on the same models in the
same run, in alternating order, one process at a time. The script looks into no file, tries one batch, and knows nothing
of batch independence.
"""


def page(
    architectures: dict[str, Architecture],
    measured: dict[str, Row],
    refusals: dict[str, Refusal],
    refused: dict[str, Row],
    compared: dict[str, tuple[Row, Row]],
) -> str:
    """Return the whole page."""
    libraries = [row["libraries_mb"] for row in measured.values() if "libraries_mb" in row]
    passed = sum(bool(row["passed"]) for row in measured.values())
    right = sum(bool(row["right"]) for row in refused.values())
    parts = [
        _HEADER.format(cores=os.cpu_count(), libraries=f"{max(libraries):.0f}" if libraries else "?"),
        _ARCHITECTURES.format(passed=passed, total=len(measured), most=MOST_SAMPLES),
        _architectures(architectures, measured),
        _REFUSALS.format(right=right, total=len(refused)),
        _refusals(refusals, refused),
        _RATIOS,
        _ratios(compared),
        f"\n## Versions\n\n{_versions()}\n",
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; bars and line ends within a cell are kept from breaking it."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(row: Row, name: str, form: str) -> str:
    value = row.get(name)
    return "" if value is None else format(value, form)


def _architectures(architectures: dict[str, Architecture], measured: dict[str, Row]) -> str:
    columns = [
        *("model", "family", "weights MB", "inputs", "max abs error", "allowed", "batch independent"),
        *("export s", "validate s", "ONNX MB", "peak MB", "outcome"),
    ]
    rows = []
    for name, row in measured.items():
        made = architectures[name]
        rows.append(
            [
                name,
                made.family,
                f"{_figure(row, 'weights_mb', '.1f')} {made.weights}",
                _inputs(made.values["inputs"]),
                _figure(row, "max_abs", ".1e"),
                str(row.get("allowed") or ""),
                {True: "yes", False: "no", None: ""}[row.get("independent")],
                *(_figure(row, figure, ".1f") for figure in ("export_s", "validate_s", "onnx_mb")),
                _figure(row, "peak_mb", ".0f"),
                "equal" if row["passed"] else without_places("; ".join(row["failures"])),
            ]
        )
    return table(columns, rows)


def _inputs(inputs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['dtype']}[{','.join(map(str, each['shape']))}]" for each in inputs)


def _refusals(refusals: dict[str, Refusal], refused: dict[str, Row]) -> str:
    rows = [
        [refusals[name].what, str(row["error"]), ("" if row["right"] else "**not as it should be:** ") + _sentence(row)]
        for name, row in refused.items()
    ]
    return table(["what", "error", "sentence"], rows)


def _sentence(row: Row) -> str:
    return without_places(row["sentence"])


def without_places(text: str) -> str:
    """Return a sentence without the folder of this run."""
    return re.sub(rf"(file://)?{re.escape(gettempdir())}/\w+/", r"\1", text)


def _ratios(compared: dict[str, tuple[Row, Row]]) -> str:
    def cell(pick: Callable[[Row, Row], float], ours: Row, by_hand: Row, form: str) -> str:
        return format(pick(ours, by_hand), form) if usable(ours, by_hand) else "not comparable"

    rows = [
        [
            name,
            cell(lambda _, b: b["work_s"], ours, by_hand, ".1f"),
            cell(lambda a, _: a["work_s"], ours, by_hand, ".1f"),
            cell(lambda a, b: a["work_s"] / b["work_s"], ours, by_hand, ".2f"),
            cell(lambda _, b: b["peak_mb"], ours, by_hand, ".0f"),
            cell(lambda a, _: a["peak_mb"], ours, by_hand, ".0f"),
            cell(lambda a, b: a["peak_mb"] / b["peak_mb"], ours, by_hand, ".2f"),
            "equal" if by_hand["passed"] else without_places("; ".join(by_hand["failures"])),
        ]
        for name, (ours, by_hand) in compared.items()
    ]
    columns = [
        *("model", "script s", "this s", "time ratio"),
        *("script peak MB", "this peak MB", "memory ratio", "the script finds"),
    ]
    said = [
        f"{what}: median {median:.2f}, worst {worst:.2f}."
        for what, (median, worst) in (
            ("Time ratio", ratios(compared, "work_s")),
            ("Memory ratio", ratios(compared, "peak_mb")),
        )
    ]
    return table(columns, rows) + "\n" + " ".join(said) + "\n"


def _versions() -> str:
    tools = ", ".join(f"{tool} {metadata.version(tool)}" for tool in _TOOLS)
    return f"Python {platform.python_version()}, {tools}."

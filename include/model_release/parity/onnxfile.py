"""What an ONNX file says of itself, without its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_release.errors import OnnxUnusable
from model_release.parity.report import OnnxFile
from model_release.spec import ModelSpec

#: Operators that draw random numbers at every run.
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


def describe(spec: ModelSpec, path: Path) -> tuple[OnnxFile, list[str]]:
    """
    Return digests, size and opset of an ONNX file, and its nodes that draw random numbers, for people.

    Raises OnnxUnusable when it is none.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        why = f"it is no ONNX file ({' '.join(str(error).split())[:300]})"
        raise OnnxUnusable(spec.name, why) from error
    beside = sorted({value for tensor in _tensors(model.graph) for value in [_location(tensor)] if value})
    files = [path, *(path.parent / name for name in beside)]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise OnnxUnusable(spec.name, f"its weights {absent} do not lie beside it")
    described = OnnxFile(
        files={file.name: sha256_of(file) for file in files},
        size_bytes=sum(file.stat().st_size for file in files),
        opset=next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        precision=spec.export.precision,
    )
    return described, [_named(node) for node in _nodes(model) if _draws(node, model.graph)]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and those inside of its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    for one in _graphs(graph):
        yield from one.initializer


def _location(tensor: Any) -> str:
    """Return the name of the file that holds a tensor's bytes, or an empty string."""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _draws(node: Any, graph: Any) -> bool:
    if node.op_type != "Dropout":
        return node.op_type in _RANDOM
    # Dropout takes training_mode as its third input; without it, it is the identity.
    training = node.input[2] if len(node.input) > 2 else ""
    return any(
        tensor.name == training and any([*tensor.raw_data, *tensor.int32_data]) for tensor in graph.initializer
    ) or any(training in other.output for other in graph.node)


def _named(node: Any) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else str(node.op_type)

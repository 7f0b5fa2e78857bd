"""The graph as the spec names it, with nothing of the machine in it, and held against the rules of ONNX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from model_release.errors import ExportFailed
from model_release.spec import ModelSpec, Tensor

PRODUCER = "model-release"
BATCH_AXIS = "batch"
#: Operators outside of these are in no ONNX Runtime that Triton ships.
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def clean(model: Any) -> None:
    """Remove what tells of the machine: stack traces with absolute paths, and the exporter's notes on each node."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        _clean_graph(graph)


def _clean_graph(graph: Any) -> None:
    for part in (graph, *graph.node, *(getattr(graph, "initializer", ())), *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*graph.input, *graph.output):
        if not isinstance(value, str):
            del value.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _clean_graph(inner)


def name_tensors(spec: ModelSpec, model: Any) -> None:
    """
    Call inputs and outputs as the spec does, in its order. Raises ExportFailed when they are not as many.

    The exporter takes names of its own inside the graph, so one of the spec's may be taken: the inner value moves away.
    """
    wanted = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    if (len(model.graph.input), len(model.graph.output)) != (len(spec.inputs), len(spec.outputs)):
        why = f"the graph has {len(model.graph.input)} inputs and {len(model.graph.output)} outputs"
        raise ExportFailed(spec.name, f"{why}, the spec {len(spec.inputs)} and {len(spec.outputs)}")
    _separate_outputs(model)
    given = [value.name for value in (*model.graph.input, *model.graph.output)]
    names = {name: f"inner_{name}" for name in wanted} | dict(zip(given, wanted, strict=True))
    _rename(model.graph, names)


def _separate_outputs(model: Any) -> None:
    """Give an output that is an input, a weight or another output a value of its own: each has its own name."""
    import onnx

    taken = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for place, value in enumerate(model.graph.output):
        if value.name in taken:
            copy = f"{value.name}_output_{place}"
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [copy]))
            value.name = copy
        taken.add(value.name)


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename values wherever they are made or used, in the graphs of branches and loops as well."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(inner, names)


def name_axes(spec: ModelSpec, model: Any) -> None:
    """Call the dynamic axes as the spec does; the exporter numbers its symbols."""
    names: dict[str, str] = {}
    for value, tensor in zip(model.graph.input, spec.inputs, strict=False):
        for dim, axis in zip(value.type.tensor_type.shape.dim, [BATCH_AXIS, *tensor.shape], strict=False):
            if dim.dim_param and isinstance(axis, str):
                names[dim.dim_param] = axis
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m.group(), m.group()), dim.dim_param)


def describe(model: Any, spec: ModelSpec, exporter: str, version: int, source_sha256: str) -> None:
    """Say in the metadata whose file it is and what made it."""
    import onnxscript
    import torch

    model.producer_name, model.producer_version = PRODUCER, ""
    model.graph.name = spec.name
    facts = {
        "model": spec.name,
        "version": str(version),
        "source_sha256": source_sha256,
        "precision": spec.export.precision,
        "exporter": exporter,
        "torch": str(torch.__version__),
        "onnxscript": str(onnxscript.__version__),
    }
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def check(spec: ModelSpec, path: Path, model: Any) -> None:
    """
    Hold the file at `path`, and its graph `model` without weights, against ONNX and the spec. Raises ExportFailed.

    ONNX's checker reads the file on disk, so that the weights are not copied.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        why = (
            f"the exporter wrote a graph that ONNX's checker refuses: {' '.join(str(error).split())[:300].rstrip('.')}"
        )
        raise ExportFailed(spec.name, why) from error
    _check_operators(spec, model)
    for what, values, tensors in (
        ("input", model.graph.input, spec.inputs),
        ("output", model.graph.output, spec.outputs),
    ):
        names, wanted = [value.name for value in values], [tensor.name for tensor in tensors]
        if names != wanted:
            raise ExportFailed(spec.name, f"the graph has the {what}s {names}, the spec says {wanted}")
        for value, tensor in zip(values, tensors, strict=True):
            problem = _difference(spec, value, tensor)
            if problem:
                raise ExportFailed(spec.name, f"{what} {tensor.name!r} {problem}", "Correct the spec or the model.")


def _check_operators(spec: ModelSpec, model: Any) -> None:
    """Refuse another opset than the spec's, and operators that servers lack."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    got = opsets.get("", opsets.get("ai.onnx"))
    if got != spec.export.opset:
        raise ExportFailed(spec.name, f"the graph has opset {got}, the spec says {spec.export.opset}")
    own = {function.domain for function in model.functions}
    known = {*_DOMAINS, *own}
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in known})
    if foreign:
        why = f"it needs the operators {', '.join(foreign[:5])}, which Triton's ONNX Runtime does not have"
        raise ExportFailed(spec.name, why, "Write them with torch's own operators.")


def _difference(spec: ModelSpec, value: Any, tensor: Tensor) -> str:
    """Return how a tensor of the graph differs from the spec's, or an empty string."""
    import numpy as np
    import onnx

    got = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if got != np.dtype(tensor.dtype):
        return f"is {got} in the graph, the spec says {tensor.dtype}"
    dims = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim
    ]
    shape = f"has the shape {dims} in the graph, the spec says {[BATCH_AXIS, *tensor.shape]}"
    if len(dims) != len(tensor.shape) + 1:
        return shape
    if isinstance(dims[0], int):
        return f"{shape}: the batch axis is fixed to {dims[0]}"
    for dim, axis in zip(dims[1:], tensor.shape, strict=True):
        known = isinstance(axis, int) or (axis in spec.dynamic_axes and dim in spec.dynamic_axes)
        if (known and dim != axis) or (isinstance(axis, str) and isinstance(dim, int)):
            return shape
    return ""

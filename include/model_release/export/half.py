"""fp16: weights and activations as float16, inputs and outputs as the spec says, chosen operators left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_release.errors import ExportFailed, did_you_mean
from model_release.export.silence import silence
from model_release.spec import ModelSpec

_LARGEST = 65504.0
#: How the converter names the casts that it puts around kept operators.
_NARROWS, _WIDENS = "_cast_to_fp16_node", "_cast_to_fp32_node"


def halve(spec: ModelSpec, path: Path) -> None:
    """
    Convert the graph at `path`, with its weights beside it, to float16 in place.

    Raises ExportFailed when a weight is beyond float16's range, or `keep_fp32` names nothing of the graph.
    """
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load(str(path))
    types = {node.op_type for node in model.graph.node}
    nodes = {node.name for node in model.graph.node}
    for kept in spec.export.keep_fp32:
        if kept not in types | nodes:
            why = f"export.keep_fp32 names {kept!r}, and the graph has neither such an operator nor such a node"
            hint = f"{did_you_mean(kept, types)} It has {', '.join(sorted(types))}."
            raise ExportFailed(spec.name, why, hint.strip())
    _refuse_large(spec, model)
    with silence():
        halved = convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *(kept for kept in spec.export.keep_fp32 if kept in types)],
            node_block_list=[kept for kept in spec.export.keep_fp32 if kept in nodes],
        )
    # What the converter says of inner values is wrong around its casts; ONNX infers them anyway.
    del halved.graph.value_info[:]
    _drop_repeated_casts(halved.graph)
    _join_kept(halved.graph)
    ordered = onnx_ir.from_proto(halved)
    # The converter appends its casts at the end, and a graph lists each node after those that it reads from.
    ordered.graph.sort()
    onnx_ir.save(ordered, path, external_data=f"{path.name}.data")


def _drop_repeated_casts(graph: Any) -> None:
    """The converter casts a value once for each kept operator that reads it, under one name; the first is enough."""
    seen: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in seen:
            graph.node.remove(node)
        seen.update(node.output)


def _join_kept(graph: Any) -> None:
    """Let what passes from one kept operator to the next stay float32; the converter narrows it to float16 between."""
    narrowed = {node.output[0]: node.input[0] for node in graph.node if node.name.endswith(_NARROWS)}
    widened = {
        node.output[0]: narrowed[node.input[0]]
        for node in graph.node
        if node.name.endswith(_WIDENS) and node.input[0] in narrowed
    }
    for node in list(graph.node):
        if node.output[0] in widened:
            graph.node.remove(node)
        for place, name in enumerate(node.input):
            node.input[place] = widened.get(name, name)
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in list(graph.node):
        if node.name.endswith(_NARROWS) and node.output[0] not in read:
            graph.node.remove(node)


def _refuse_large(spec: ModelSpec, model: Any) -> None:
    """The converter would clip such weights, and the model would answer something else."""
    import numpy as np
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        finite = np.abs(array[np.isfinite(array)])
        largest = float(finite.max(initial=0.0))
        if largest > _LARGEST and not _is_mask(largest):
            why = f"the weight {tensor.name} reaches {largest:.3g}, and float16 ends at {_LARGEST:g}"
            raise ExportFailed(spec.name, why, "Keep its operator in float32 (export.keep_fp32), or precision: fp32.")


def _is_mask(value: float) -> bool:
    """The lowest float32 stands for minus infinity in attention masks; float16's own lowest does the same."""
    import numpy as np

    return value >= float(np.finfo(np.float32).max) * 0.99

"""Attention under a boolean mask: what a query that may look at nothing answers."""

from __future__ import annotations

from typing import Any

#: From the output of `Where(mask, 0, lowest)` to the test for NaN that follows the softmax.
_PATTERN = ("Add", "Softmax", "IsNaN")


def mask_with_infinity(graph: Any) -> int:
    """
    Let a query whose whole row is masked answer 0, as torch's scaled_dot_product_attention does; return how many masks.

    The exporter (onnxscript 0.7) fills such a mask with the lowest number of its dtype, where its own comment says
    minus infinity. The softmax of a row of equal numbers is then a mean over what is masked, and the test for NaN
    behind it, which would turn 0/0 into 0, never fires. A left-padded sequence under a causal mask has such rows.
    `graph` is an onnx_ir.Graph and is changed in place.
    """
    changed = 0
    for node in list(graph):
        if node.op_type != "Where" or not _is_lowest(node.inputs[2]) or not _leads(node.outputs[0], _PATTERN):
            continue
        node.replace_input_with(2, _infinity(graph, node.inputs[2].const_value))
        changed += 1
    return changed


def _is_lowest(value: Any) -> bool:
    """Say whether a value is a constant of the lowest finite number of its dtype."""
    import numpy as np

    tensor = value.const_value if value is not None else None
    if tensor is None or tensor.size != 1:
        return False
    array = tensor.numpy()
    return bool(array.dtype.kind == "f" and array.item() == float(np.finfo(array.dtype).min))


def _leads(value: Any, operators: tuple[str, ...]) -> bool:
    """Say whether a value flows through these operators, one after another."""
    if not operators:
        return True
    users = [node for node in value.consumers() if node.op_type == operators[0]]
    return any(_leads(node.outputs[0], operators[1:]) for node in users)


def _infinity(graph: Any, like: Any) -> Any:
    """Return minus infinity as an initializer of the same dtype and shape."""
    import numpy as np
    import onnx_ir

    name = f"masked_{like.dtype.name.lower()}"
    while name in graph.initializers and graph.initializers[name].const_value.shape != like.shape:
        name += "_"
    if name not in graph.initializers:
        filled = np.full_like(like.numpy(), -np.inf)
        graph.register_initializer(onnx_ir.Value(name=name, const_value=onnx_ir.tensor(filled, name=name)))
    return graph.initializers[name]

"""
What overflows in a float16 graph: what the answers of ONNX Runtime's CPU kernels cannot show.

They have no float16 arithmetic for most operators. ONNX Runtime puts casts around those and removes the pairs between,
so that whole graphs run in float32, and a value beyond 65504 that a GPU would turn into infinity stays a number. But
what a graph puts out has its own dtype: in a copy whose inner values are outputs too, each of them is rounded to
float16, and the node is found that makes an infinity or NaN of finite inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from model_release.errors import OnnxUnusable, Overflow
from model_release.parity.candidate import Arrays, import_onnxruntime
from model_release.parity.cases import Case
from model_release.spec import ModelSpec

#: Arithmetic that is finite for finite inputs, as long as the dtype is wide enough. Division and logarithms may answer
#: infinity in any dtype, and a cast of a mask's lowest number is meant to.
_ARITHMETIC = frozenset(
    {
        *("Add", "Sub", "Mul", "Pow", "Exp", "Sum", "MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "CumSum"),
        *("ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceMean", "Softplus", "Gelu", "LSTM", "GRU", "RNN"),
    }
)
_MOST_SAMPLES = 32


def find_overflow(spec: ModelSpec, onnx_path: Path, cases: Iterable[Case]) -> Overflow | None:
    """Return the first overflow of a float16 file on the samples of the largest batches, asked one at a time."""
    import onnx

    if spec.export.precision != "fp16":
        return None
    model = onnx.load(str(onnx_path), load_external_data=False)
    inner = _halves(model)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(value for name, value in inner.items() if name not in known)
    # Beside the file, since its weights may lie there.
    with NamedTemporaryFile(dir=onnx_path.parent, suffix=".onnx") as copy:
        copy.write(model.SerializeToString())
        copy.flush()
        session = _open(spec, copy.name)
        for what, inputs in _samples(spec, cases):
            try:
                answers = dict(zip(inner, session.run(list(inner), inputs), strict=True))
            except Exception as error:
                raise OnnxUnusable(spec.name, f"ONNX Runtime fails on {what} ({error})") from error
            node = _first(model.graph, inputs | answers)
            if node is not None:
                return Overflow(spec.name, node.op_type, node.name, what)
    return None


def _halves(model: Any) -> dict[str, Any]:
    """Return the values by name that nodes of the main graph compute in float16."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    computed = {name for node in model.graph.node for name in node.output}
    return {
        value.name: value
        for value in (*inferred.value_info, *inferred.output)
        if value.name in computed and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }


def _open(spec: ModelSpec, path: str) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        why = f"ONNX Runtime does not open it with its inner values as outputs ({error})"
        raise OnnxUnusable(spec.name, why) from error


def _samples(spec: ModelSpec, cases: Iterable[Case]) -> Iterable[tuple[str, Arrays]]:
    """Yield what a sample is and its inputs, from the cases of the largest batch, whose samples are the most varied."""
    count = 0
    for case in cases:
        if case.size < spec.batch_sizes[-1]:
            continue
        for place, label in enumerate(case.labels):
            if count == _MOST_SAMPLES:
                return
            count += 1
            yield label, {name: array[place : place + 1] for name, array in case.inputs.items()}


def _first(graph: Any, values: Arrays) -> Any:
    """Return the first node that makes what is not finite of finite inputs; None where there is none."""
    broken = {
        name for name, array in values.items() if array.dtype.kind == "f" and not np.isfinite(array.astype("f4")).all()
    }
    if not broken:
        return None
    for node in graph.node:
        if node.op_type in _ARITHMETIC and broken.intersection(node.output) and not broken.intersection(node.input):
            return node
    return None

"""Export: a PyTorch module to one ONNX file that is what the spec says, and carries nothing of the machine."""

from __future__ import annotations

import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release.errors import ExportFailed
from model_release.spec import ModelSpec, Tensor

if TYPE_CHECKING:
    from torch import nn

PRODUCER = "model-release"
BATCH_AXIS = "batch"
#: Above this the weights need files of their own: a protobuf ends at 2 GiB.
MOST_BYTES = 1_800_000_000
_NOISY = ("torch", "torch.onnx", "onnxscript", "onnx_ir")
_LIBRARIES = (
    *(f"/site-packages/{name}/" for name in ("torch", "onnxscript", "onnx_ir", "onnx")),
    f"{Path(__file__).parent}/",
)
_STANDARD = sysconfig.get_paths()["stdlib"]
_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'")
_DATA_DEPENDENT = re.compile(r"data-dependent|GuardOnDataDependent|_local_scalar_dense", re.IGNORECASE)
_FIXED_AXIS = re.compile(r"Constraints violated|was inferred to be a constant", re.IGNORECASE)
_FIXED_TO = re.compile(r"Suggested fixes:\s*\n((?:[ \t]+\S.*\n?)+)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\s*\n\s*(\S.*)')


def export_onnx(
    spec: ModelSpec,
    module: nn.Module,
    path: Path,
    *,
    version: int,
    source_sha256: str,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """
    Export a module in eval mode to the ONNX file `path`, with the spec's names and a dynamic batch axis everywhere.

    The file names model, version and source in its metadata and holds no path of this machine; the same module gives
    the same bytes. Raises ExportFailed, with the operator or the user's line where it can be found.
    """
    size_bytes = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if size_bytes > MOST_BYTES:
        why = f"its weights are {size_bytes} bytes, more than the {MOST_BYTES} that one ONNX file takes here"
        raise ExportFailed(spec.name, why, "Export it at a lower precision, or a smaller variant.")
    (progress or (lambda _: None))("translating to ONNX")
    model = _exported(spec, module)
    _clean(model)
    _name_axes(spec, model)
    _name(model, spec, version, source_sha256)
    _check(spec, model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return [path]


def _exported(spec: ModelSpec, module: nn.Module) -> Any:
    """Return the ONNX ModelProto of the exporter as it is. Raises ExportFailed."""
    import torch

    from model_release.parity.reference import as_served
    from model_release.parity.samples import generate, middle_axes

    axes = middle_axes(spec)
    # Neither 0 nor 1, which the exporter would take for fixed, nor the size of another axis.
    batch_size = next(size for size in range(2, 100) if size not in axes.values())
    example = generate(spec, batch_size, 0, axes)
    arguments = tuple(torch.from_numpy(example[tensor.name]) for tensor in spec.inputs)
    served = as_served(spec, module)
    program = None
    try:
        with _silence(), torch.no_grad():
            program = torch.export.export(served, arguments, dynamic_shapes={"inputs": _dynamic_shapes(spec)})
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=spec.export.opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                external_data=False,
                verbose=False,
            )
            return exported.model_proto
    except ExportFailed:
        raise
    except Exception as error:
        raise _failure(spec, error, program) from error


def _dynamic_shapes(spec: ModelSpec) -> tuple[dict[int, Any], ...]:
    """Return the dynamic axes of each input: the batch, and the named ones within their bounds."""
    from torch.export import Dim

    batch = Dim(BATCH_AXIS, min=1, max=max(2, spec.serving.max_batch_size))
    named = {name: Dim(name, min=axis.min, max=axis.max) for name, axis in spec.dynamic_axes.items()}
    return tuple(
        {0: batch, **{place: named[axis] for place, axis in enumerate(tensor.shape, 1) if isinstance(axis, str)}}
        for tensor in spec.inputs
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's own chatter from the reader: what goes wrong comes as an exception."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _failure(spec: ModelSpec, error: Exception, program: Any) -> ExportFailed:
    """Turn an exception of the exporter into a sentence about the user's model."""
    chain = list(_chain(error))
    text = "\n".join(str(link) for link in chain)
    where = _users_line(chain)
    operator = _OPERATOR.search(text)
    if operator:
        where = _line_of(operator.group(1), program) or where
        why = f"ONNX opset {spec.export.opset} has no operator for {operator.group(1)}{where}"
        return ExportFailed(spec.name, why, "Write it with other operators, or raise export.opset.")
    if _DATA_DEPENDENT.search(text):
        why = f"the flow of forward depends on the values of a tensor{where}"
        return ExportFailed(
            spec.name, why, "Use torch.where or torch.cond instead of `if`, and no .item() or .tolist()."
        )
    if _FIXED_AXIS.search(text):
        fixed = _FIXED_TO.search(text)
        what = f" ({', '.join(line.strip() for line in fixed.group(1).splitlines())})" if fixed else ""
        why = f"forward does not take every size of the spec's dynamic axes{what}{where}"
        hint = "Take sizes from the inputs (x.shape[0], reshape(x.shape[0], -1)), or write what it takes into the spec."
        return ExportFailed(spec.name, why, hint)
    first = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), "no reason given")
    return ExportFailed(spec.name, f"{type(chain[-1]).__name__}: {first[:300]}{where}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _users_line(chain: Iterable[BaseException]) -> str:
    """Return ' (file.py line 12: code)' of the innermost line of the user's own code, or nothing."""
    for link in reversed(list(chain)):
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if _is_users(frame.filename):
                return f" ({Path(frame.filename).name} line {frame.lineno}: {frame.line})"
    return ""


def _is_users(filename: str) -> bool:
    if filename.startswith("<") or any(part in filename for part in _LIBRARIES):
        return False
    return "/site-packages/" in filename or not filename.startswith(_STANDARD)


def _line_of(operator: str, program: Any) -> str:
    """Return the user's line that an operator came from, as `_users_line` does."""
    with _silence():
        nodes = program.run_decompositions().graph.nodes
    for node in nodes:
        if str(node.target).startswith(operator):
            for filename, line, code in reversed(_FRAME.findall(node.meta.get("stack_trace") or "")):
                if _is_users(filename):
                    return f" ({Path(filename).name} line {line}: {code})"
    return ""


def _clean(model: Any) -> None:
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


def _name_axes(spec: ModelSpec, model: Any) -> None:
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


def _name(model: Any, spec: ModelSpec, version: int, source_sha256: str) -> None:
    """Say whose file it is."""
    import onnxscript
    import torch

    model.producer_name, model.producer_version = PRODUCER, ""
    model.graph.name = spec.name
    facts = {
        "model": spec.name,
        "version": str(version),
        "source_sha256": source_sha256,
        "torch": str(torch.__version__),
        "onnxscript": str(onnxscript.__version__),
    }
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _check(spec: ModelSpec, model: Any) -> None:
    """Hold the file against the rules of ONNX and against the spec. Raises ExportFailed."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        why = f"the exporter wrote a graph that ONNX's checker refuses: {' '.join(str(error).split())[:300]}"
        raise ExportFailed(spec.name, why) from error
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

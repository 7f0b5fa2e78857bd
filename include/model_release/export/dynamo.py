"""torch.export and the dynamo exporter: a module to a graph, with the spec's names and dynamic axes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release.errors import ExportFailed
from model_release.export.attention import mask_with_infinity
from model_release.export.failures import failure
from model_release.export.graph import BATCH_AXIS
from model_release.export.silence import silence
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def translate(spec: ModelSpec, module: nn.Module, path: Path) -> None:
    """Write the graph to `path` and its weights to a file beside it, tensor by tensor. Raises ExportFailed."""
    import onnx_ir
    import torch

    from model_release.parity.reference import as_served

    served = as_served(spec, module)
    program = None
    try:
        with silence(), torch.no_grad():
            program = torch.export.export(served, example(spec), dynamic_shapes={"inputs": _dynamic_shapes(spec)})
            _refuse_state(spec, program)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=spec.export.opset,
                verbose=False,
            )
            mask_with_infinity(exported.model.graph)
            onnx_ir.save(exported.model, path, external_data=f"{path.name}.data")
    except ExportFailed:
        raise
    except Exception as error:
        raise failure(spec, error, program, module) from error
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        why = f"forward switches {training[0] or 'the model'} to training mode"
        raise ExportFailed(spec.name, why, "Leave train() and eval() to the caller.")


def _refuse_state(spec: ModelSpec, program: Any) -> None:
    """Refuse a model that remembers: Triton runs each request by itself, on any of its instances."""
    changed = list(program.graph_signature.buffers_to_mutate.values()) or _changed_in_place(program)
    if changed:
        why = f"forward changes the buffer {changed[0].removeprefix('module.')}, and a served model has no state"
        raise ExportFailed(spec.name, why, "Compute what is needed anew in each call, or return it as an output.")


def _changed_in_place(program: Any) -> list[str]:
    """Return the buffers that operators such as add_ change: the signature has them only after decomposition."""
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    if not any(schema is not None and schema.is_mutable for schema in schemas):
        return []
    return list(program.run_decompositions().graph_signature.buffers_to_mutate.values())


def example(spec: ModelSpec) -> tuple[Any, ...]:
    """Return inputs to trace with, in the spec's order: no size of an axis that stands for another."""
    import torch

    from model_release.parity.samples import generate, middle_axes

    axes = middle_axes(spec)
    # Neither 0 nor 1, which the exporter would take for fixed, nor the size of another axis.
    batch_size = next(size for size in range(2, 100) if size not in axes.values())
    arrays = generate(spec, batch_size, 0, axes)
    return tuple(torch.from_numpy(arrays[tensor.name]) for tensor in spec.inputs)


def _dynamic_shapes(spec: ModelSpec) -> tuple[dict[int, Any], ...]:
    """Return the dynamic axes of each input: the batch, and the named ones within their bounds."""
    from torch.export import Dim

    most = spec.serving.max_batch_size
    batch = Dim(BATCH_AXIS, min=1, max=max(2, most)) if most else Dim(BATCH_AXIS, min=1)
    named = {name: Dim(name, min=axis.min, max=axis.max) for name, axis in spec.dynamic_axes.items()}
    return tuple(
        {0: batch, **{place: named[axis] for place, axis in enumerate(tensor.shape, 1) if isinstance(axis, str)}}
        for tensor in spec.inputs
    )

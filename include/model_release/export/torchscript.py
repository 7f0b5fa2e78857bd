"""TorchScript: the older exporter, which translates the script's own graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from model_release.errors import ExportFailed
from model_release.export.dynamo import example
from model_release.export.failures import failure
from model_release.export.graph import BATCH_AXIS
from model_release.export.silence import silence
from model_release.spec import ModelSpec, Tensor

if TYPE_CHECKING:
    from torch import jit

#: The newest opset that this exporter writes.
_NEWEST_OPSET = 20
_INSTEAD = "Release it as a state_dict with a factory, or as an exported_program."


def translate(spec: ModelSpec, module: jit.ScriptModule, path: Path) -> None:
    """
    Write the graph to `path` and its weights to a file beside it. Raises ExportFailed.

    Inputs go by name where forward has all of their names, else by position; outputs in the order of forward's.
    """
    import onnx
    import torch

    from model_release.parity.reference import argument_names

    if spec.export.opset > _NEWEST_OPSET:
        why = f"TorchScript is written up to opset {_NEWEST_OPSET}, the spec says {spec.export.opset}"
        raise ExportFailed(spec.name, why, _INSTEAD)
    given = dict(zip(argument_names(spec, module) or [], example(spec), strict=False))
    declared = [argument.name for argument in module.forward.schema.arguments[1:]]
    order = [name for name in declared if name in given]
    if order != declared[: len(order)]:
        why = f"the inputs ({', '.join(given)}) leave out an argument before others of ({', '.join(declared)})"
        raise ExportFailed(spec.name, why, _INSTEAD)
    named = dict(zip(given, (tensor.name for tensor in spec.inputs), strict=True))
    tensors = (*spec.inputs, *spec.outputs)
    try:
        with silence(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(given[name] for name in order),
                str(path),
                dynamo=False,
                opset_version=spec.export.opset,
                input_names=[named[name] for name in order],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_axes={tensor.name: _dynamic(tensor) for tensor in tensors},
            )
        model = onnx.load(str(path))
    except ExportFailed:
        raise
    except Exception as error:
        blamed = str(failure(spec, error, None)).split(": ", 1)[1].rstrip(".")
        raise ExportFailed(spec.name, f"the TorchScript exporter refuses it ({blamed})", _INSTEAD) from error
    by_name = {value.name: value for value in model.graph.input}
    del model.graph.input[:]
    model.graph.input.extend(by_name[tensor.name] for tensor in spec.inputs if tensor.name in by_name)
    path.unlink()
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)


def _dynamic(tensor: Tensor) -> dict[int, str]:
    axes = {place: axis for place, axis in enumerate(tensor.shape, 1) if isinstance(axis, str)}
    return {0: BATCH_AXIS, **axes}

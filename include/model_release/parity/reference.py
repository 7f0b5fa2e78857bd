"""The PyTorch model as the spec sees it: arrays in by name, arrays out by name. Imported only where torch may be."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model_release.errors import ExportFailed, ModelRefusesInputs
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, npt.NDArray[Any]]


def argument_names(spec: ModelSpec, module: nn.Module) -> list[str] | None:
    """
    Return the argument of `forward` that takes each input of the spec; None when they go by position into *args.

    By name where forward has all of the names, else by position. Raises ExportFailed when the counts do not fit.
    """
    inputs = [tensor.name for tensor in spec.inputs]
    parameters = _parameters(module)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    required = [p.name for p in named if p.default is p.empty]
    if set(inputs) <= set(names) and set(required) <= set(inputs):
        return inputs
    positional = [p.name for p in named if p.kind is not p.KEYWORD_ONLY]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        if len(required) <= len(inputs) <= len(positional) and set(required) <= set(positional[: len(inputs)]):
            return positional[: len(inputs)]
        why = f"the spec has the inputs {_named(inputs)}, but forward takes {_named(names)}"
        raise ExportFailed(spec.name, why, "List one input for each argument, in forward's order or by its names.")
    return None


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward, which TorchScript tells by a schema."""
    schema = getattr(module.forward, "schema", None)
    if schema is None:
        return list(inspect.signature(module.forward).parameters.values())
    return [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
        )
        for argument in schema.arguments[1:]
    ]


def _named(names: Sequence[str]) -> str:
    return f"({', '.join(names)})"


def as_served(spec: ModelSpec, module: nn.Module) -> nn.Module:
    """Wrap a module so that it takes the spec's inputs in order and returns a tuple of the spec's outputs."""
    from torch import nn

    names = argument_names(spec, module)

    class Served(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
        """The module between the spec's names."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            return pick_outputs(spec, _called(self.module, names, inputs))

    return in_eval_mode(Served())


def _called(module: nn.Module, names: list[str] | None, inputs: tuple[Any, ...]) -> Any:
    """Call forward with each input under its argument's name; an exported program insists on how it was once called."""
    if names is None:
        return module(*inputs)
    given = dict(zip(names, inputs, strict=True))
    called = getattr(module, "_in_spec", None)
    if called is None:
        return module(**given)
    positional, keywords = called.children()
    ordered = [parameter.name for parameter in _parameters(module)][: positional.num_children]
    return module(*(given[name] for name in ordered), **{name: given[name] for name in keywords.context})


def in_eval_mode(module: nn.Module) -> nn.Module:
    """Put a module and all of its parts into eval mode; those of an exported program have no other."""
    for part in module.modules():
        try:
            part.train(False)
        except NotImplementedError:
            part.training = False
    return module


def pick_outputs(spec: ModelSpec, answer: Any) -> tuple[Any, ...]:
    """
    Return the spec's outputs, in order, of what forward returned: one tensor, a tuple or list, or a
    mapping, dataclass or named tuple with their names.

    Raises ExportFailed when they are not there.
    """
    import torch

    wanted = [tensor.name for tensor in spec.outputs]
    hint = "Correct `outputs` of the spec, or what forward returns."
    if dataclasses.is_dataclass(answer) and not isinstance(answer, Mapping):
        answer = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    elif isinstance(answer, tuple) and set(wanted) <= set(getattr(answer, "_fields", ())):
        answer = dict(zip(answer._fields, answer, strict=True))  # type: ignore[attr-defined]
    if isinstance(answer, Mapping):
        missing = [name for name in wanted if name not in answer]
        if missing:
            why = f"forward returns a mapping with {_named(list(answer))}, without the outputs {_named(missing)}"
            raise ExportFailed(spec.name, why, hint)
        found = tuple(answer[name] for name in wanted)
    else:
        found = tuple(answer) if isinstance(answer, tuple | list) else (answer,)
    if len(found) != len(wanted):
        why = f"forward returns {len(found)} values, the spec names the outputs {_named(wanted)}"
        raise ExportFailed(spec.name, why, hint)
    for name, value in zip(wanted, found, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ExportFailed(spec.name, f"output {name!r} of forward is a {type(value).__name__}, no tensor", hint)
    return found


class Reference:
    """Answers of eager PyTorch: the truth that ONNX is held against."""

    def __init__(self, spec: ModelSpec, module: nn.Module) -> None:
        self._spec = spec
        self._served = as_served(spec, module)

    def __call__(self, inputs: Arrays, what: str = "its inputs") -> Arrays:
        """
        Return the outputs by name for inputs by name, batch first.

        Raises ModelRefusesInputs, naming `what` was put in, when the model fails or loses the batch axis.
        """
        import torch

        batch_size = len(next(iter(inputs.values())))
        try:
            with torch.inference_mode():
                tensors = [torch.from_numpy(np.array(inputs[tensor.name])) for tensor in self._spec.inputs]
                answers = [answer.detach().cpu().numpy() for answer in self._served(*tensors)]
        except ExportFailed:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ModelRefusesInputs(self._spec.name, what, why) from error
        for tensor, answer in zip(self._spec.outputs, answers, strict=True):
            if answer.ndim == 0 or len(answer) != batch_size:
                why = f"output {tensor.name!r} has the shape {list(answer.shape)}, not {batch_size} first"
                raise ModelRefusesInputs(self._spec.name, what, why)
        return {tensor.name: answer for tensor, answer in zip(self._spec.outputs, answers, strict=True)}

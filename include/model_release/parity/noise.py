"""Noise: a model that answers the same input differently each time, and which part of it draws the random numbers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release.errors import NotDeterministic
from model_release.parity.cases import Case
from model_release.parity.compare import compare
from model_release.parity.report import PYTORCH, Noise
from model_release.parity.samples import Arrays
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Ask = Callable[[Arrays, str], Arrays]
_SHOWN = 3


def find_noise(spec: ModelSpec, ask: Ask, provider: str, case: Case, blame: Callable[[], str]) -> list[Noise]:
    """Ask twice with the same inputs, and return the outputs that differ; `blame` is asked only if any does."""
    first, second = ask(case.inputs, case.name), ask(case.inputs, case.name)
    found: list[Noise] = []
    for tensor in spec.outputs:
        one, other = first[tensor.name], second[tensor.name]
        if one.shape != other.shape:
            found.append(_noise(provider, tensor.name, 0.0, True, blame))
        elif not _same_bytes(one, other):
            difference = compare(other, one, spec.tolerance(tensor.name))
            found.append(_noise(provider, tensor.name, difference.worst_abs, difference.differing > 0, blame))
    return found


def _same_bytes(one: Any, other: Any) -> bool:
    return bool(one.tobytes() == other.tobytes())


def _noise(provider: str, output: str, max_abs: float, beyond: bool, blame: Callable[[], str]) -> Noise:
    finite = min(max_abs, sys.float_info.max)
    return Noise(
        provider=provider,
        output=output,
        max_abs=finite,
        beyond_tolerance=beyond,
        blame=blame(),
    )


def failure_of(spec: ModelSpec, noise: Noise) -> NotDeterministic:
    """Return the error for noise beyond the tolerance."""
    if noise.provider == PYTORCH:
        who, where = "the PyTorch model", noise.blame
        usual = (
            "Usual causes: functional dropout with training=True (pass self.training), torch.rand or sampling in "
            "forward, which belong to the client."
        )
    else:
        who, where = f"the ONNX file on {noise.provider}", noise.blame
        usual = "Export it again from a model in eval mode, without random operators in forward."
    drawn = f"Random numbers are drawn by {where}. " if where else ""
    return NotDeterministic(spec.name, noise.output, noise.max_abs, who, drawn + usual)


def blame_module(module: nn.Module, run: Callable[[], Any]) -> str:
    """
    Return which operators, modules and lines draw random numbers when `run` calls the module; empty if none is found.

    PyTorch tags the operators that take from its generators. Where none ran (numpy's generator, the clock), the first
    submodule is named that turned equal inputs into unequal outputs in two runs.
    """
    draws = _draws(module, run)
    if draws:
        shown = "; ".join(draws[:_SHOWN])
        return shown + (f" and {len(draws) - _SHOWN} more" if len(draws) > _SHOWN else "")
    return _first_difference(_calls(module, run), _calls(module, run))


def _draws(module: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Run under a mode that sees every operator, and return those that draw, once each."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    at: list[str] = []
    found: dict[str, None] = {}

    class Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not followed by mypy
        """Notes the operators whose result takes random numbers."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Attention carries the tag for a dropout that is off outside of training.
            if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func):
                name = str(func.name()).split(".")[0]
                found[", ".join([f"{name} in {at[-1] if at else 'forward'}", *_user_line()])] = None
            return func(*args, **(kwargs or {}))

    def enter(name: str, _: Any) -> None:
        at.append(name)

    def leave(name: str, inputs: Any, output: Any) -> None:  # noqa: ARG001
        at.pop()

    with suppress(Exception), _hooked(module, enter, leave), Watch():
        run()
    return list(found)


def _user_line() -> Iterator[str]:
    """Yield the file and line, outside of torch and of this file, that the call came from."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        inside = name.startswith("<") or name == __file__ or "torch" in Path(name).parts or "contextlib" in name
        if not inside:
            # The wrapper between the spec's names and the model is ours, not the user's.
            if Path(name).parent != Path(__file__).parent:
                yield f"{Path(name).name}:{frame.f_lineno}"
            return
        if frame.f_back is None:
            return
        frame = frame.f_back


def _calls(module: nn.Module, run: Callable[[], Any]) -> list[tuple[str, str, str]]:
    """Return each submodule's call, in the order in which they end: its name, and digests of inputs and outputs."""
    calls: list[tuple[str, str, str]] = []

    def enter(name: str, inputs: Any) -> None:
        """Inputs are read at the end of the call."""

    def leave(name: str, inputs: Any, output: Any) -> None:
        calls.append((name, _digest(inputs), _digest(output)))

    with suppress(Exception), _hooked(module, enter, leave):
        run()
    return calls


def _first_difference(first: list[tuple[str, str, str]], second: list[tuple[str, str, str]]) -> str:
    for (name, given, answer), (_, other_given, other_answer) in zip(first, second, strict=False):
        if given == other_given and answer != other_answer:
            return name
        if given != other_given:
            return f"forward, before {name} is called"
    return ""


@contextmanager
def _hooked(
    module: nn.Module, enter: Callable[[str, Any], None], leave: Callable[[str, Any, Any], None]
) -> Iterator[None]:
    """Call `enter` and `leave` around every submodule's forward; a scripted module takes no such hooks."""
    handles = []
    try:
        for name, part in module.named_modules():
            what = f"module {name!r} ({type(part).__name__})" if name else f"the model itself ({type(part).__name__})"
            with suppress(RuntimeError, AttributeError):
                handles.append(part.register_forward_pre_hook(lambda _, inputs, what=what: enter(what, inputs)))
                handles.append(
                    part.register_forward_hook(lambda _, inputs, output, what=what: leave(what, inputs, output))
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _digest(value: Any) -> str:
    """Return a digest of all tensors in a nested value."""
    import torch
    from torch.utils import _pytree

    digest = hashlib.sha256()
    for leaf in _pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

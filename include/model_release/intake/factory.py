"""The factory of the spec: the user's own function that builds the module."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from model_release.errors import FactoryFailed
from model_release.spec import Source

if TYPE_CHECKING:
    from torch import nn


def build(source: Source) -> nn.Module:
    """Import and call the factory. Raises FactoryFailed."""
    from torch import nn

    named = source.factory or ""
    name, _, function = named.partition(":")
    try:
        factory = getattr(importlib.import_module(name), function, None)
    except Exception as error:
        raise FactoryFailed(named, f"importing {name} gives {one_line(error)}") from error
    if not callable(factory):
        raise FactoryFailed(named, f"{name} has no function {function!r}")
    try:
        module = factory(**source.factory_kwargs)
    except Exception as error:
        raise FactoryFailed(named, f"calling it gives {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise FactoryFailed(named, f"it returned a {type(module).__name__}")
    return module


def one_line(error: Exception) -> str:
    """Return an exception as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

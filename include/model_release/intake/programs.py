"""Checkpoints that are programs: loading one runs what it says, so it happens in a child process alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release.errors import CheckpointUnreadable
from model_release.intake.factory import one_line

if TYPE_CHECKING:
    from torch import nn


def load(kind: str, uri: str, path: Path) -> nn.Module:
    """Load an exported program (.pt2) or a TorchScript archive. Raises CheckpointUnreadable."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "exported_program":
                module: Any = torch.export.load(path).module()
            else:
                module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:
        what = kind.replace("_", " ")
        raise CheckpointUnreadable(
            uri, f"torch {torch.__version__} does not load this {what} ({one_line(error)})"
        ) from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module

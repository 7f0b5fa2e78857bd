from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit import toys
from tests.unit.intake.files import STATE


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as torch.export.save writes it."""
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    made = torch.export.export(toys.linear(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(made, path)
    return path

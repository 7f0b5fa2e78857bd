"""Model configs held against what Triton does with them, as far as no server is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec
from model_release.triton.config import build_config
from model_release.triton.neighbours import clashes

#: Stands for the version that a release gives.
ANY_VERSION = 1


def unserved(specs: Mapping[str, ModelSpec], folder: Path) -> list[BadModelConfig]:
    """Render each spec of a folder, by its name; returns the problems of those that no server would serve."""
    problems, rendered = [], dict[str, Any]()
    for name, spec in specs.items():
        try:
            rendered[name] = build_config(spec, ANY_VERSION)
        except BadModelConfig as bad:
            problems.append(BadModelConfig(str(folder / f"{name}.yaml"), bad.problems))
    for name, config in rendered.items():
        pair = specs[name].serving.fleet_pair
        others = {
            other: its for other, its in rendered.items() if other != name and specs[other].serving.fleet_pair == pair
        }
        if found := clashes(config, others):
            problems.append(BadModelConfig(str(folder / f"{name}.yaml"), found))
    return problems

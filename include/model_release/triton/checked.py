"""Model configs held against what Triton does with them, as far as no server is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec
from model_release.triton.bundle import build_bundle
from model_release.triton.neighbours import clashes

#: Stands for the version that a release gives.
ANY_VERSION = 1


def unserved(specs: Mapping[str, ModelSpec], folder: Path) -> list[BadModelConfig]:
    """Render each spec of a folder, by its name; returns the problems of those that no server would serve."""
    problems, rendered = [], dict[str, Any]()
    owners = dict[str, str]()
    for name, spec in specs.items():
        try:
            for config in build_bundle(spec, ANY_VERSION).by_part.values():
                rendered[config.name], owners[config.name] = config, name
        except BadModelConfig as bad:
            problems.append(BadModelConfig(str(folder / f"{name}.yaml"), bad.problems))
    pairs = {model: specs[name].serving.fleet_pair for model, name in owners.items()}
    for model, config in rendered.items():
        others = {other: its for other, its in rendered.items() if other != model and pairs[other] == pairs[model]}
        if found := clashes(config, others):
            problems.append(BadModelConfig(str(folder / f"{owners[model]}.yaml"), found))
    return problems

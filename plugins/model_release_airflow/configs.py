"""The model configs that the DAGs are built from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec
from model_release.spec_files import load_specs

CONFIGS_VARIABLE = "MODEL_RELEASE_CONFIGS"
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Configs:
    """The good configs by model name, in order, and what is wrong with the others."""

    specs: dict[str, ModelSpec]
    problems: list[BadModelConfig]

    def demand_all_good(self) -> None:
        """Raise BadModelConfig with every problem of every bad file."""
        if not self.problems:
            return
        if len(self.problems) == 1:
            raise self.problems[0]
        files = ", ".join(Path(problem.path).name for problem in self.problems)
        lines = [f"{problem.path}: {'; '.join(problem.problems)}" for problem in self.problems]
        raise BadModelConfig(f"the model configs ({files})", lines)


def read_configs(project: Path = _PROJECT) -> Configs:
    """
    Read the folder that MODEL_RELEASE_CONFIGS names, by default include/model_configs of a project.

    The DAG files name the project that they lie in: the configs are of the version of the bundle that Airflow parses.
    """
    specs, problems = load_specs(Path(os.environ.get(CONFIGS_VARIABLE) or project / "include" / "model_configs"))
    return Configs(specs, problems)

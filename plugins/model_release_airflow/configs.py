"""The model configs that the DAGs are built from."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from airflow.sdk import get_parsing_context

from model_release.errors import BadModelConfig, UnknownModel
from model_release.spec import ModelSpec
from model_release.spec_files import find_spec, load_specs
from model_release_airflow.backfills import RELEASES

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
    return Configs(*load_specs(_folder(project)))


def specs_to_parse(project: Path) -> list[ModelSpec]:
    """
    Return the specs of a project whose DAGs are asked for: all good ones, or of a task that starts its own DAG's alone.

    Airflow parses the DAG file anew for each task, and says then for which DAG.
    """
    asked = get_parsing_context().dag_id
    if asked is not None and asked.startswith(RELEASES):
        with suppress(BadModelConfig, UnknownModel):
            return [find_spec(_folder(project), asked.removeprefix(RELEASES))]
    return list(read_configs(project).specs.values())


def _folder(project: Path) -> Path:
    return Path(os.environ.get(CONFIGS_VARIABLE) or project / "include" / "model_configs")

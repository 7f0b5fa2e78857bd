"""The project as a bundle with versions: each state is kept whole, and a run reads the one that it began with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_steps import PROJECT

Bundle = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "dags", tmp_path / "project" / "dags")
    configs = tmp_path / "project" / "include" / "model_configs"
    shutil.copytree(Path(__file__).with_name("model_configs"), configs)
    return tmp_path / "project"


@pytest.fixture
def bundle(project: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.delenv("MODEL_RELEASE_CONFIGS")
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(project.parent / "bundles"))

    def made(version: str | None = None, **kwargs: Any) -> Any:
        from model_release_airflow.bundle import ProjectBundle

        one = ProjectBundle(name="model-release", project=str(project), version=version, **kwargs)
        one.initialize()
        return one

    return made


def edit(project: Path, stages: str) -> None:
    config = project / "include" / "model_configs" / "echo.yaml"
    config.write_text(config.read_text().replace("[10, 50, 100]", stages))


def groups(one: Any) -> set[str]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(one.path)
    assert bag.import_errors == {}
    found = {task.task_group.group_id for task in bag.dags["release_echo"].tasks if task.task_group}
    return {group for group in found if group}


def test_a_run_reads_the_stages_that_it_began_with_whatever_is_edited_since(bundle: Bundle, project: Path) -> None:
    newest = bundle()
    before = newest.get_current_version().version

    edit(project, "[25, 100]")
    newest.refresh()

    after = newest.get_current_version().version
    assert after != before
    assert groups(newest) == groups(bundle(after)) == {"canary_25", "canary_100"}
    assert groups(bundle(before)) == {"canary_10", "canary_50", "canary_100"}
    assert bundle(before).get_current_version().version == before


def test_the_same_state_has_the_same_version_and_one_copy(bundle: Bundle, project: Path) -> None:
    newest = bundle()
    first = newest.get_current_version().version
    edit(project, "[25, 100]")
    newest.refresh()
    config = project / "include" / "model_configs" / "echo.yaml"
    config.write_text(config.read_text().replace("[25, 100]", "[10, 50, 100]"))
    (project / "dags" / "__pycache__").mkdir(exist_ok=True)
    (project / "dags" / "__pycache__" / "model_release.pyc").write_bytes(b"compiled")
    (project / "dags" / ".model_release.py.swp").write_bytes(b"an editor's")

    newest.refresh()

    assert newest.get_current_version().version == first
    assert len(list(newest.versions_dir.iterdir())) == 2


def test_a_copy_that_was_removed_is_taken_again(bundle: Bundle) -> None:
    newest = bundle()
    version = newest.get_current_version().version
    shutil.rmtree(newest.versions_dir / version)
    assert newest.get_current_version() is None

    newest.refresh()

    assert newest.get_current_version().version == version
    assert (newest.path / "model_release.py").is_file()


def test_a_version_that_is_not_here_is_told_with_what_helps(bundle: Bundle) -> None:
    with pytest.raises(Exception, match=r"abcdef is not in .*Clear the run with the latest version"):
        bundle("abcdef")


def test_configs_may_lie_elsewhere(bundle: Bundle, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "configs"
    shutil.move(project / "include" / "model_configs", elsewhere)

    assert groups(bundle(configs=str(elsewhere))) == {"canary_10", "canary_50", "canary_100"}

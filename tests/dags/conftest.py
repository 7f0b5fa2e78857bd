"""An Airflow of its own for these tests; its variables are gone again before the tests of another folder run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from scripted_steps import ENVIRONMENT, PROJECT, Run, Script

_days = count()


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module", autouse=True)
def _airflow(airflow_home: Path) -> Iterator[None]:
    """Set what Airflow reads when it is first imported, which is why no test module imports it at its top."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW_HOME": str(airflow_home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home / 'airflow.db'}",
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_MODEL_RELEASE": json.dumps({"conn_type": "generic", "extra": ENVIRONMENT}),
            "MODEL_RELEASE_CONFIGS": str(Path(__file__).with_name("model_configs")),
        }.items():
            patch.setenv(name, value)
        patch.delenv("MODEL_RELEASE_ENVIRONMENT", raising=False)
        if not (airflow_home / "airflow.db").exists():
            from airflow.utils import db

            db.initdb()
        yield


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Replace the library's steps by a script; a healthy release of three stages unless the test says otherwise."""
    from model_release_airflow import steps

    told = Script()
    monkeypatch.setattr(steps, "library_step", told.step)
    return told


def release_dag() -> Any:
    """Read the DAG anew: a run in this process leaves its params in the DAG's object."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(PROJECT / "dags" / "model_release.py").dags["release_echo"]
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    return dag


@pytest.fixture
def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Return a function that runs the DAG in this process and returns (run state, task states by id).

    `started` gets the run's record before the first task runs; `marked` is a pattern of tasks that are set to success
    by hand instead of being run.
    """
    from airflow.models import dagrun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from model_release_airflow import triggers

    sleep, create = time.sleep, dagrun.get_or_create_dagrun
    # dag.test() waits a second each time that it only had tasks to skip.
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(triggers, "SETTLES_S", 0.0)

    def run_dag(
        logical_date: datetime | None = None,
        *,
        started: Callable[[Any, Any], None] | None = None,
        marked: str | None = None,
        **conf: Any,
    ) -> tuple[str, dict[str, str]]:
        def created(**arguments: Any) -> Any:
            dag_run = create(**arguments)
            if started is not None:
                started(dag_run, arguments["session"])
                arguments["session"].commit()
            return dag_run

        monkeypatch.setattr(dagrun, "get_or_create_dagrun", created)
        date = logical_date or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=next(_days))
        finished = release_dag().test(logical_date=date, run_conf=conf, mark_success_pattern=marked)
        with create_session() as session:
            mine = (TaskInstance.run_id == finished.run_id, TaskInstance.dag_id == "release_echo")
            states = {task.task_id: str(task.state) for task in session.scalars(select(TaskInstance).where(*mine))}
        return str(finished.state), states

    return run_dag

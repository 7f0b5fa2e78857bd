"""An Airflow of its own for these tests; its variables are gone again before the tests of another folder run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_steps import ENVIRONMENT, PROJECT, Script


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

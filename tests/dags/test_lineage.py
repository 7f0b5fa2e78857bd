"""What OpenLineage is told of a release, through Airflow's provider and its file transport."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_steps import ENVIRONMENT

from model_release.environment import Environment
from model_release.spec_files import load_spec

CONFIG = Path(__file__).with_name("model_configs") / "echo.yaml"
PLANNED = {"model": "echo", "version": 20260102000000, "checkpoint": "s3://training/echo/2026-01-02/model.safetensors"}


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Any:
    from model_release_airflow import lineage

    place = {**ENVIRONMENT, "s3": {"bucket": "models", "prefix": "prod"}}
    monkeypatch.setattr(lineage, "environment_of_task", lambda: Environment.model_validate(place))
    monkeypatch.setattr(lineage.ReleaseStep, "execute", lambda *_: {"release_digest": "d1"})
    from airflow.sdk import DAG

    with DAG("release_echo"):
        return lineage.Publish(spec=load_spec(CONFIG), step="publish")


def sealed(publish: Any, **planned: Any) -> None:
    publish.execute({"ti": SimpleNamespace(xcom_pull=lambda **_: {**PLANNED, **planned})})


def test_a_checkpoint_goes_in_and_a_version_of_the_archive_comes_out(publish: Any, tmp_path: Path) -> None:
    from airflow.providers.openlineage.extractors.manager import ExtractorManager
    from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
    from airflow.utils.state import TaskInstanceState
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    sealed(publish)
    found = ExtractorManager().extract_metadata(
        dagrun=SimpleNamespace(run_id="r"),
        task=publish,
        task_instance_state=TaskInstanceState.SUCCESS,
        task_instance=SimpleNamespace(),
    )
    log = tmp_path / "lineage.json"
    transport = FileTransport(FileConfig(log_file_path=str(log), append=True))
    OpenLineageAdapter(client=OpenLineageClient(transport=transport)).complete_task(
        run_id="01890000-0000-7000-8000-000000000000",
        job_name="release_echo.publish",
        end_time="2026-01-02T03:04:05+00:00",
        task=found,
        nominal_start_time=None,
        nominal_end_time=None,
        owners=None,
        tags=None,
        job_description=None,
    )

    event = json.loads(log.read_text())
    assert [(each["namespace"], each["name"]) for each in event["inputs"]] == [
        ("s3://training", "echo/2026-01-02/model.safetensors")
    ]
    [output] = event["outputs"]
    assert (output["namespace"], output["name"]) == ("s3://models", "prod/archive/echo/20260102000000")
    assert output["facets"]["version"]["datasetVersion"] == "20260102000000 d1"


def test_a_file_is_a_dataset_too_and_a_failed_publish_has_no_lineage(publish: Any) -> None:
    assert publish.get_openlineage_facets_on_complete(None) is None

    sealed(publish, checkpoint="file:///models/echo.pt")

    [given] = publish.get_openlineage_facets_on_complete(None).inputs
    assert (given.namespace, given.name) == ("file", "/models/echo.pt")


def test_the_dag_publishes_with_lineage() -> None:
    from airflow.dag_processing.dagbag import DagBag
    from scripted_steps import PROJECT

    dag = DagBag(PROJECT / "dags" / "model_release.py").dags["release_echo"]

    assert hasattr(dag.get_task("publish"), "get_openlineage_facets_on_complete")

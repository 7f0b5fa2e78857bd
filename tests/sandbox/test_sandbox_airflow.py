"""The whole sandbox with Airflow in it: healthy, on loopback alone, without a login, and gone after `down`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import yaml

from sandbox import airflow
from sandbox.airflow_rest import AirflowRest
from sandbox.demo import DIGITS
from sandbox.settings import HOST, ROOT
from tests.sandbox.conftest import WITHOUT, Sandbox
from tests.sandbox.releasing import await_true

PROCESSES = ("api-server", "scheduler", "dag-processor", "triggerer")


@pytest.fixture(scope="module")
def with_airflow(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The session's sandbox with all parts, and afterwards as the other tests expect it."""
    sandbox.must("up")
    yield sandbox
    sandbox.must("up", *WITHOUT)


def get(sandbox: Sandbox, path: str) -> Any:
    with urllib.request.urlopen(f"http://{HOST}:{sandbox.settings.ports.airflow}{path}", timeout=30) as response:
        return json.load(response)


def test_airflow_is_healthy_and_needs_no_login(with_airflow: Sandbox) -> None:
    health = get(with_airflow, "/api/v2/monitor/health")

    assert {health[part]["status"] for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")} == {
        "healthy"
    }
    assert get(with_airflow, "/api/v2/dags")["total_entries"] >= 0


def test_airflow_has_the_connections_and_pools_of_the_settings_file(with_airflow: Sandbox) -> None:
    wanted = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]

    pools = {pool["name"]: pool["slots"] for pool in get(with_airflow, "/api/v2/pools")["pools"]}
    connections = {each["connection_id"] for each in get(with_airflow, "/api/v2/connections")["connections"]}

    assert wanted["pools"]
    assert {pool["pool_name"]: pool["pool_slot"] for pool in wanted["pools"]}.items() <= pools.items()
    assert {each["conn_id"] for each in wanted["connections"]} <= connections


def test_airflow_too_listens_on_loopback_alone(with_airflow: Sandbox) -> None:
    listening = with_airflow.listening()

    assert with_airflow.settings.ports.airflow in {port for _, port in listening}
    assert {ip for ip, _ in listening} == {HOST}


def test_a_run_whose_answer_gets_lost_is_asked_for_again_and_started_once(
    with_airflow: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, dag, answers = AirflowRest(airflow.url(with_airflow.settings)), DIGITS.release_dag, list[str]()
    ask = rest._call_once

    def loses_the_first(method: str, path: str, body: Any) -> Any:
        answer = ask(method, path, body)
        answers.append(answer["dag_run_id"])
        raise TimeoutError(answer)

    await_true(lambda: dag in {each["dag_id"] for each in rest.call("GET", "/dags")["dags"]}, f"{dag} is read")
    with monkeypatch.context() as patch:
        patch.setattr(rest, "_call_once", lambda *asked: (ask if answers else loses_the_first)(*asked))
        run = rest.trigger(dag, {})

    assert answers == [run]
    assert [each["dag_run_id"] for each in rest.call("GET", f"/dags/{dag}/dagRuns")["dag_runs"]] == [run]


def test_status_shows_every_part(with_airflow: Sandbox) -> None:
    shown = with_airflow.must("status")

    assert all(f"airflow-{name}" in shown for name in PROCESSES)
    assert "traffic" in shown


def test_nothing_of_airflow_is_left_after_down(with_airflow: Sandbox) -> None:
    running = with_airflow.of_each_process(lambda process: (process, " ".join(process.cmdline())))
    assert sum("airflow" in command for _, command in running) >= len(PROCESSES)

    with_airflow.must("down")

    assert [command for process, command in running if lives(process)] == []


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

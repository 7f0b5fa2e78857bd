"""The whole sandbox with Airflow in it: healthy, on loopback alone, without a login, and gone after `down`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import yaml

from sandbox.settings import HOST, ROOT
from tests.sandbox.conftest import WITHOUT, Sandbox

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
    listening = [
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for pid in with_airflow.pids()
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert with_airflow.settings.ports.airflow in {port for _, port in listening}
    assert {ip for ip, _ in listening} == {HOST}


def test_status_shows_every_part(with_airflow: Sandbox) -> None:
    shown = with_airflow.must("status")

    assert all(f"airflow-{name}" in shown for name in PROCESSES)
    assert "traffic" in shown


def test_nothing_of_airflow_is_left_after_down(with_airflow: Sandbox) -> None:
    running = [psutil.Process(pid) for pid in with_airflow.pids()]
    assert sum("airflow" in " ".join(process.cmdline()) for process in running) >= len(PROCESSES)

    with_airflow.must("down")

    assert [process for process in running if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []

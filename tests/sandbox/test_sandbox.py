"""The sandbox itself: what is put there is served through the router, and nothing is left of it after `down`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from botocore.exceptions import ClientError
from tritonclient.utils import InferenceServerException

from sandbox import processes
from sandbox.settings import HOST
from sandbox.traffic import replay
from sandbox.traffic_report import Record, read_records
from tests.sandbox.conftest import WITHOUT, Sandbox
from tests.sandbox.routed_parts import (
    CONFIG,
    MODEL,
    VERSION,
    awaited,
    http,
    infer_by_grpc,
    infer_by_http,
    routed,
    serves_by_http,
)

__all__ = ["routed"]
RATE_PER_S = 160


def test_a_model_put_there_by_hand_is_served_over_http_and_grpc(routed: str) -> None:
    status, headers, text = infer_by_http(routed)

    assert (status, json.loads(text)["outputs"][0]["data"]) == (200, [3.0, -4.0])
    assert (headers["x-model-arm"], headers["x-model-version"]) == ("stable", str(VERSION))
    assert infer_by_grpc(routed) == [3.0, -4.0]


def test_a_grpc_call_that_names_no_model_is_refused_with_a_sentence(routed: str) -> None:
    with triton_grpc.InferenceServerClient(routed) as client, pytest.raises(InferenceServerException) as refused:
        client.get_model_metadata(MODEL, client_timeout=10)

    assert "x-model" in str(refused.value)


def test_tritons_identity_reads_the_models_and_changes_nothing(
    sandbox: Sandbox, routed: str, triton_s3_client: Any
) -> None:
    key = f"serving/default/blue/{MODEL}/config.pbtxt"
    assert triton_s3_client.get_object(Bucket="models", Key=key)["Body"].read() == CONFIG.encode()

    for attempt in (
        lambda: triton_s3_client.put_object(Bucket="models", Key=key, Body=b"other"),
        lambda: triton_s3_client.delete_object(Bucket="models", Key=key),
        lambda: triton_s3_client.list_objects_v2(Bucket="training"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()

    assert sandbox.s3_client().get_object(Bucket="models", Key=key)["Body"].read() == CONFIG.encode()


def test_nothing_listens_beyond_loopback(sandbox: Sandbox) -> None:
    listening = sandbox.listening()

    expected = {port for name in ("s3", "envoy", "triton-blue-0") for port in sandbox.settings.ports_of(name).values()}
    assert expected <= {port for _, port in listening}
    assert {ip for ip, _ in listening} == {HOST}


def test_onnx_runtime_keeps_no_events_to_send(sandbox: Sandbox, routed: str) -> None:
    assert serves_by_http(routed)

    opened = [file.path for file in chain(*sandbox.of_each_process(lambda process: process.open_files()))]

    assert any("triton" in path or "s3" in path for path in opened)
    assert [path for path in opened if "onnxruntime.db" in path] == []


def test_a_taken_port_is_named_before_anything_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    second = sandbox.run("up", *WITHOUT, home=tmp_path / "second")

    assert second.returncode == 1
    assert f"{sandbox.settings.ports.s3} (s3) by weed" in second.stderr
    assert f"{sandbox.settings.ports.router} (envoy, router) by envoy" in second.stderr
    assert not (tmp_path / "second" / "supervisord.json").exists()


def test_a_second_up_changes_nothing(sandbox: Sandbox) -> None:
    before = sandbox.pids()

    assert "up already" in sandbox.must("up", *WITHOUT)

    assert sandbox.pids() == before


def test_up_refuses_settings_other_than_those_in_use(sandbox: Sandbox, tmp_path: Path) -> None:
    other = tmp_path / "settings.yaml"
    other.write_text("ports: {router_admin: 21550}\n", encoding="utf-8")

    refused = sandbox.run("up", *WITHOUT, SANDBOX_SETTINGS=str(other))

    assert refused.returncode == 1
    assert "make down" in refused.stderr


def test_status_names_what_should_run_and_does_not(sandbox: Sandbox) -> None:
    assert "triton-green-1  running" in sandbox.must("status")

    sandbox.must("stop", "triton-green-1")
    stopped = sandbox.run("status")
    sandbox.must("up", *WITHOUT)

    assert stopped.returncode == 1
    assert "triton-green-1  stopped" in stopped.stdout
    assert sandbox.run("status").returncode == 0


def test_a_killed_triton_comes_back_and_serves_what_s3_says(sandbox: Sandbox, routed: str) -> None:
    replica = sandbox.environment.pairs["default"].blue.replicas[0]
    commands = sandbox.of_each_process(lambda process: (process.pid, process.cmdline()))
    [victim] = [pid for pid, command in commands if f"--http-port={replica.http.rpartition(':')[2]}" in command]

    os.kill(victim, signal.SIGKILL)

    assert awaited(lambda: victim not in sandbox.pids())
    assert awaited(lambda: serves_directly(replica.http))
    assert serves_by_http(routed)


def serves_directly(address: str) -> bool:
    try:
        return http("GET", f"{address}/v2/models/{MODEL}/versions/{VERSION}/ready")[0] == 200
    except OSError:
        return False


def test_after_down_nothing_runs_and_after_up_the_model_is_served_again(sandbox: Sandbox, routed: str) -> None:
    running = sandbox.pids()

    sandbox.must("down")

    assert not [pid for pid in running if psutil.pid_exists(pid) and not is_zombie(pid)]
    assert not any(
        listens(port) for name in ("s3", "envoy", "triton-bench-0") for port in sandbox.settings.ports_of(name).values()
    )
    assert sandbox.run("status").returncode == 1

    sandbox.must("up", *WITHOUT)

    assert awaited(lambda: serves_by_http(routed))
    assert infer_by_grpc(routed) == [3.0, -4.0]


def test_down_also_ends_what_a_killed_supervisord_left(sandbox: Sandbox, routed: str) -> None:
    supervisor = processes.supervisor(sandbox.home)
    assert supervisor is not None
    supervisor.kill()
    assert awaited(lambda: processes.supervisor(sandbox.home) is None)
    orphans = sandbox.pids()
    assert len(orphans) >= 7
    assert "make down" in sandbox.run("status").stdout

    sandbox.must("down")

    assert not [pid for pid in orphans if psutil.pid_exists(pid) and not is_zombie(pid)]
    sandbox.must("up", *WITHOUT)
    assert awaited(lambda: serves_by_http(routed))


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def replayed(sandbox: Sandbox, model: str, at_least: int) -> list[Record]:
    """What clients of a model see, for as long as a busy machine takes for that many of them."""
    images = np.array([[1, 2], [2, 1]], dtype=np.float32)
    body = io.BytesIO()
    np.savez(body, x=images, label=np.array([1, 0]))
    sandbox.s3_client().put_object(Bucket="training", Key=f"{model}/live.npz", Body=body.getvalue())
    since = time.time()
    for run_s in (2, 10, 50):
        asyncio.run(replay(sandbox.settings, sandbox.home, model, RATE_PER_S, time.monotonic() + run_s))
        records = list(read_records(sandbox.home.traffic / f"{model}.csv", since=since))
        if len(records) >= at_least:
            break
    return records


def test_clients_see_the_arm_and_the_right_answer_by_both_protocols(sandbox: Sandbox, routed: str) -> None:
    records = replayed(sandbox, MODEL, RATE_PER_S)

    assert {(record.outcome, record.arm, record.version, record.right) for record in records} == {
        ("ok", "stable", str(VERSION), True)
    }
    assert len(records) >= RATE_PER_S
    http_share = sum(record.protocol == "http" for record in records) / len(records)
    assert http_share == pytest.approx(sandbox.settings.traffic.http_share, abs=0.02)


def test_clients_tell_a_model_that_was_never_released_from_an_error(sandbox: Sandbox) -> None:
    records = replayed(sandbox, "never_released", 20)

    assert {record.outcome for record in records} == {"unreleased"}
    assert {record.protocol for record in records} == {"grpc", "http"}

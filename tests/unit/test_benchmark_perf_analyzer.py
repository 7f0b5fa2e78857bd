"""What is made of perf_analyzer's exit code and report; a script stands in for the program."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from model_release.benchmark import perf_analyzer
from model_release.environment import Environment
from model_release.errors import BenchmarkFailed
from tests.unit.served_toys import ENVIRONMENT

HEADER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)
ROW = "8,1220.61,2,693,1239,73,363,304,0,4405,6071,6816,9828"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.json"
    perf_analyzer.write_inputs(path, {"input__x": np.zeros((2, 3), np.float32)})
    return path


def playing(folder: Path, body: str, key: str | None = None) -> Environment:
    """Return an environment whose perf_analyzer notes its arguments and runs `body`, with REPORT as its -f."""
    script = folder / "perf_analyzer"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> "{folder}/calls"\nwhile [ "$1" != "-f" ]; do shift; done\nREPORT="$2"\n{body}\n'
    )
    script.chmod(0o755)
    values = {**ENVIRONMENT.model_dump(), "perf_analyzer": {"command": [str(script)]}, "triton_key": key}
    return Environment.model_validate(values)


def run(environment: Environment, inputs: Path, concurrency: int = 8) -> perf_analyzer.Measured:
    replica = environment.pair("default").bench.replicas[0]
    return perf_analyzer.run("toy", replica, environment, inputs, concurrency, 3.3)


def test_the_row_is_read_in_milliseconds(tmp_path: Path, inputs: Path) -> None:
    measured = run(playing(tmp_path, f'printf "{HEADER}\\n{ROW}\\n" > "$REPORT"'), inputs)

    assert measured == perf_analyzer.Measured(1220.61, 4.405, 6.816, 9.828, 1.239, 0.74)


def test_one_process_measures_one_level_over_grpc_with_the_recorded_inputs(tmp_path: Path, inputs: Path) -> None:
    run(playing(tmp_path, f'printf "{HEADER}\\n{ROW}\\n" > "$REPORT"'), inputs)

    call = (tmp_path / "calls").read_text()
    assert "-m toy -u 127.0.0.1:2 -i grpc -b 1" in call
    assert f"--input-data {inputs} --concurrency-range 8:8" in call
    assert "--measurement-interval 1000" in call


def test_the_key_of_a_restricted_server_is_handed_over(tmp_path: Path, inputs: Path) -> None:
    run(playing(tmp_path, f'printf "{HEADER}\\n{ROW}\\n" > "$REPORT"', key="admin=secret"), inputs)

    assert "-H triton-grpc-protocol-admin:secret" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 0", "exited 0 but reported nothing at concurrency 8"),
        (f'echo "{HEADER}" > "$REPORT"', "reported nothing at concurrency 8"),
        (f'printf "{HEADER}\\n1{ROW}\\n" > "$REPORT"', "reported nothing at concurrency 8"),
        ('printf "Concurrency,Inferences/Second\\n8,5\\n" > "$REPORT"', "cannot be read: KeyError"),
        (f'printf "{HEADER}\\n{ROW.replace("4405", "n/a")}\\n" > "$REPORT"', "cannot be read: ValueError"),
        (f'printf "{HEADER}\\n{ROW.replace("1220.61", "0")}\\n" > "$REPORT"', "no request was answered"),
        ('echo "failed to get model metadata" >&2; exit 99', "exited 99 .*failed to get model metadata"),
        ("exit 1", "exited 1 .*it said nothing"),
    ],
)
def test_whatever_is_no_measurement_is_an_error(tmp_path: Path, inputs: Path, body: str, words: str) -> None:
    with pytest.raises(BenchmarkFailed, match=words):
        run(playing(tmp_path, body), inputs)


def test_a_report_of_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "report-8.csv").write_text(f"{HEADER}\n{ROW}\n")

    with pytest.raises(BenchmarkFailed, match="reported nothing"):
        run(playing(tmp_path, "exit 0"), inputs)


def test_an_empty_window_is_tried_once_more_with_longer_ones(tmp_path: Path, inputs: Path) -> None:
    empty = 'echo "No valid requests recorded within time interval. Please use a larger time window."; exit 3'
    second = f'if [ "$(wc -l < {tmp_path}/calls)" = 1 ]; then {empty}; fi; printf "{HEADER}\\n{ROW}\\n" > "$REPORT"'

    assert run(playing(tmp_path, second), inputs).p99_ms == 9.828
    assert "--measurement-interval 4300" in (tmp_path / "calls").read_text()
    with pytest.raises(BenchmarkFailed, match="larger time window"):
        run(playing(tmp_path, empty), inputs)


def test_a_hung_process_is_ended(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "_GRACE_S", -3.0)

    with pytest.raises(BenchmarkFailed, match="did not end within 0 s"):
        run(playing(tmp_path, "exec sleep 60"), inputs)


def test_samples_keep_their_bytes_and_shape(tmp_path: Path) -> None:
    ids, flags = np.array([[1, 2], [3, 4]]), np.array([True, False])
    perf_analyzer.write_inputs(tmp_path / "i.json", {"input__ids": ids, "input__flag": flags, "output__y": ids})

    first, second = json.loads((tmp_path / "i.json").read_text())["data"]

    assert first["ids"] == {"b64": base64.b64encode(ids[0].tobytes()).decode(), "shape": [2]}
    assert second["flag"] == {"b64": base64.b64encode(b"\x00").decode(), "shape": [1]}
    assert "y" not in first


def test_without_batching_a_sample_has_its_complete_shape(tmp_path: Path) -> None:
    ids, flags = np.array([[1, 2], [3, 4]]), np.array([True, False])
    perf_analyzer.write_inputs(tmp_path / "i.json", {"input__ids": ids, "input__flag": flags}, batching=False)

    _, second = json.loads((tmp_path / "i.json").read_text())["data"]

    assert second["ids"] == {"b64": base64.b64encode(ids[1].tobytes()).decode(), "shape": [1, 2]}
    assert second["flag"]["shape"] == [1]

"""
NVIDIA's perf_analyzer: one process, one concurrency, real inputs, one row.

A sweep inside one process stops at its first unstable level, leaves it out of the report and still exits 0, so each
level is a process of its own and its row has to be there.
"""

from __future__ import annotations

import base64
import csv
import json
import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_release.environment import Environment, Replica
from model_release.errors import BenchmarkFailed
from model_release.triton.fleet import INPUT
from model_release.triton.replica import Arrays, key_header

log = logging.getLogger(__name__)
#: A level is this many windows, reported as one: perf_analyzer always takes three before it calls a level stable.
WINDOWS = 3
#: What a process takes beside its windows.
START_S = 0.3
_LEAST_WINDOW_MS = 200
_GRACE_S = 60
#: What it says, by the place where it notices, when a window went by without an answer.
_EMPTY_WINDOW = ("use a larger time window", "failed to find the requested model version")
_LONGER = 4
#: With a thread a request the client itself becomes the bottleneck.
_MOST_SYNCHRONOUS = 64
_US_PER_MS = 1000.0


@dataclass(frozen=True)
class Measured:
    """One row of perf_analyzer: throughput in requests a second, latencies as the client saw them."""

    throughput_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_ms: float


def write_inputs(path: Path, recorded: Arrays, *, batching: bool = True) -> None:
    """
    Write the recorded samples as perf_analyzer reads them; it takes one after the other, round and round.

    With batching it adds the batch axis itself; a model without gets the complete shape, of a batch of one.
    """
    names = [name for name in recorded if name.startswith(INPUT)]
    samples = [
        {
            name.removeprefix(INPUT): _sample(recorded[name][i] if batching else recorded[name][i : i + 1])
            for name in names
        }
        for i in range(len(recorded[names[0]]))
    ]
    path.write_text(json.dumps({"data": samples}))


def _sample(array: np.ndarray[Any, Any]) -> dict[str, object]:
    if array.dtype.kind == "U":  # as text: perf_analyzer takes the bytes of b64 for serialized ones
        return {"content": [str(text) for text in array.ravel()], "shape": list(array.shape) or [1]}
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"b64": content, "shape": list(array.shape) or [1]}


def run(
    model: str, replica: Replica, environment: Environment, inputs: Path, concurrency: int, seconds: float
) -> Measured:
    """
    Load the replica for `seconds` with `concurrency` requests at a time, each of one sample.

    When a window went by without an answer it is tried once more with longer ones, as perf_analyzer advises.
    Raises BenchmarkFailed when perf_analyzer does not run, fails, or leaves no row.
    """
    where = f"at concurrency {concurrency} on {replica.name}"
    report = inputs.with_name(f"report-{concurrency}.csv")
    done = _execute(_command(model, replica, environment, inputs, report, concurrency, seconds), model, report, seconds)
    if done.returncode != 0 and any(words in done.stdout + done.stderr for words in _EMPTY_WINDOW):
        seconds *= _LONGER
        log.warning("a window of perf_analyzer stayed empty %s: trying %.1f s", where, seconds)
        command = _command(model, replica, environment, inputs, report, concurrency, seconds)
        done = _execute(command, model, report, seconds)
    if done.returncode != 0:
        raise BenchmarkFailed(model, f"perf_analyzer exited {done.returncode} {where}: {_last_words(done)}")
    return _read(model, report, where, concurrency)


def _execute(command: list[str], model: str, report: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    report.unlink(missing_ok=True)
    timeout_s = seconds + _GRACE_S
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, cwd=report.parent, check=False
        )
    except OSError as error:
        why = f"{command[0]} does not start: {error}; perf_analyzer.command of the environment names it"
        raise BenchmarkFailed(model, why) from None
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(model, f"perf_analyzer did not end within {timeout_s:.0f} s") from None


def _command(
    model: str,
    replica: Replica,
    environment: Environment,
    inputs: Path,
    report: Path,
    concurrency: int,
    seconds: float,
) -> list[str]:
    window_ms = max(_LEAST_WINDOW_MS, int((seconds - START_S) / WINDOWS * 1000))
    arguments = [
        *("-m", model, "-u", replica.grpc, "-i", "grpc", "-b", "1"),
        *("--input-data", str(inputs), "--concurrency-range", f"{concurrency}:{concurrency}"),
        *("--measurement-mode", "time_windows", "--measurement-interval", str(window_ms)),
        # The spread of the windows is not judged here: the median of repeats is.
        *("--stability-percentage", "100000", "--max-trials", str(WINDOWS)),
        *("-f", str(report)),
        *(("--async",) if concurrency > _MOST_SYNCHRONOUS else ("--sync",)),
    ]
    for name, value in key_header(environment).items():
        arguments += ["-H", f"{name}:{value}"]
    return [*environment.perf_analyzer.command, *arguments]


def _read(model: str, report: Path, where: str, concurrency: int) -> Measured:
    """Return the row of the level. Raises BenchmarkFailed when it is not there, or not a measurement."""
    try:
        with report.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("Concurrency") == str(concurrency)]
    except OSError:
        rows = []
    if len(rows) != 1:
        raise BenchmarkFailed(model, f"perf_analyzer exited 0 but reported nothing {where}: the level was unstable")
    row = rows[0]
    try:
        measured = Measured(
            throughput_per_s=float(row["Inferences/Second"]),
            p50_ms=_ms(row, "p50 latency"),
            p95_ms=_ms(row, "p95 latency"),
            p99_ms=_ms(row, "p99 latency"),
            queue_ms=_ms(row, "Server Queue"),
            compute_ms=sum(_ms(row, f"Server Compute {part}") for part in ("Input", "Infer", "Output")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkFailed(model, f"perf_analyzer's report {where} cannot be read: {error!r}") from None
    if measured.throughput_per_s <= 0:
        raise BenchmarkFailed(model, f"no request was answered {where}")
    return measured


def _ms(row: dict[str, str], column: str) -> float:
    return float(row[column]) / _US_PER_MS


def _last_words(done: subprocess.CompletedProcess[str], most: int = 300) -> str:
    lines: Sequence[str] = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return " ".join(lines[-3:])[-most:] or "it said nothing"

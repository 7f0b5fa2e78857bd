"""NVIDIA's Model Analyzer on the sandbox's Triton: what it chooses for a model, and how long it takes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_release.benchmark import perf_analyzer
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from sandbox.errors import SandboxError
from sandbox.settings import HOST, ROOT
from sandbox.show_benchmarks.models import Shown
from sandbox.show_benchmarks.servers import VENV, free_ports, process
from sandbox.triton import perf_analyzer_command, server_script

ANALYZER_VENV = ROOT / ".venv-analyzer"
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Analyzed:
    """What it found: the configuration that its report ranks first."""

    tuning: Tuning
    seconds: float


def is_installed() -> bool:
    """Say whether it is there; `make show-tuner` installs it into a virtual environment of its own."""
    return (ANALYZER_VENV / "bin" / "model-analyzer").exists()


def analyze(shown: Shown, onnx: Path, folder: Path, levels: Sequence[int], grid: Sequence[Tuning]) -> Analyzed:
    """
    Let it sweep all of a grid for one model, which it calls a manual search.

    It measures as it comes, but for the inputs, which are the real ones. Raises SandboxError with the end of what it
    said.
    """
    repository = folder / "models"
    place = repository / shown.name / "1"
    place.mkdir(parents=True)
    for file in onnx.parent.glob(f"{onnx.name}*"):
        shutil.copy(file, place / file.name.replace(onnx.name, "model.onnx"))
    served = configs.render(configs.build_config(shown.spec(), 1), epoch=0)
    (repository / shown.name / "config.pbtxt").write_text(served)
    perf_analyzer.write_inputs(folder / "inputs.json", shown.recorded())
    asked = folder / "asked.yaml"
    asked.write_text(yaml.safe_dump(_asked(shown, folder, levels, grid)))
    command = [str(ANALYZER_VENV / "bin" / "model-analyzer"), "profile", "--config-file", str(asked)]
    began = time.monotonic()
    log = folder / "analyzer.log"
    with process(command, dict(os.environ), log, folder) as running, suppress(subprocess.TimeoutExpired):
        running.wait(_TIMEOUT_S)
    seconds = time.monotonic() - began
    best = best_of(folder / "export" / "results" / "metrics-model-inference.csv")
    if best is None:
        message = f"model-analyzer of {shown.name} ended with {running.returncode}: {log.read_text()[-1500:]}"
        raise SandboxError(message)
    return Analyzed(tuning_of(shown, folder / "out" / best / "config.pbtxt"), seconds)


def _asked(shown: Shown, folder: Path, levels: Sequence[int], grid: Sequence[Tuning]) -> dict[str, Any]:
    http, grpc, metrics = free_ports(3)
    threads = sorted({str(tuning.intra_op_thread_count or 1) for tuning in grid})
    model = {
        "cpu_only": True,
        "perf_analyzer_flags": {"input-data": str(folder / "inputs.json")},
        "parameters": {"concurrency": list(levels), "batch_sizes": [1]},
        "model_config_parameters": {
            "instance_group": [{"kind": "KIND_CPU", "count": sorted({each.instance_count for each in grid})}],
            "dynamic_batching": {
                "max_queue_delay_microseconds": sorted({each.max_queue_delay_microseconds for each in grid})
            },
            "parameters": {"intra_op_thread_count": {"string_value": threads}},
        },
    }
    return {
        "model_repository": str(folder / "models"),
        "output_model_repository_path": str(folder / "out"),
        "checkpoint_directory": str(folder / "checkpoints"),
        "export_path": str(folder / "export"),
        "triton_launch_mode": "local",
        "triton_server_path": str(server_script(VENV, folder)),
        "triton_http_endpoint": f"{HOST}:{http}",
        "triton_grpc_endpoint": f"{HOST}:{grpc}",
        "triton_metrics_url": f"http://{HOST}:{metrics}/metrics",
        "triton_server_flags": {"http-port": http, "grpc-port": grpc, "metrics-port": metrics},
        "triton_output_path": str(folder / "triton.log"),
        "perf_analyzer_path": perf_analyzer_command(VENV, folder)[0],
        "client_protocol": "grpc",
        "gpus": [],
        "skip_detailed_reports": True,
        "profile_models": {shown.name: model},
    }


def best_of(report: Path) -> str | None:
    """Return the name of the configuration with the highest throughput at any load."""
    rows = list(csv.DictReader(report.read_text().splitlines())) if report.exists() else []
    best = max(rows, key=lambda row: float(row["Throughput (infer/sec)"]), default=None)
    return best["Model Config Path"] if best else None


def tuning_of(shown: Shown, path: Path) -> Tuning:
    """Return what a configuration of it differs by from what the model is served by."""
    config, spec = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()), shown.spec()
    threads = int(config.parameters["intra_op_thread_count"].string_value)
    return Tuning(
        config.dynamic_batching.max_queue_delay_microseconds,
        tuple(config.dynamic_batching.preferred_batch_size),
        config.instance_group[0].count,
        None if config.max_batch_size == spec.serving.max_batch_size else config.max_batch_size,
        None if str(threads) == spec.serving.parameters.get("intra_op_thread_count") else threads,
    )

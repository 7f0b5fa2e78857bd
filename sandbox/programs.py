"""Every supervised program, in the order in which they start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from sandbox import airflow, s3
from sandbox.errors import SandboxError
from sandbox.home import Home, write_private
from sandbox.settings import HOST, ROOT, Settings
from sandbox.supervisor import Program

VENV = Path(sys.prefix)
TRITON_VENV = ROOT / ".venv-triton"
_TRITON_STOP_S = 10
_GUARD_EVERY_S = 10


def check_installed(settings: Settings) -> None:
    """Raise SandboxError that names each missing part, before anything is written or started."""
    needed = {"weed": VENV / "bin" / "weed", "envoy": VENV / "bin" / "envoy"}
    if settings.programs.airflow:
        needed["airflow"] = VENV / "bin" / "airflow"
    needed["the Triton environment"] = triton_venv() / "bin" / "python"
    missing = [f"{name} ({path})" for name, path in needed.items() if not path.exists()]
    if missing:
        message = f"not installed: {', '.join(missing)}. Run 'make install'."
        raise SandboxError(message)


def triton_venv() -> Path:
    """Return the environment that holds the Triton server; SANDBOX_TRITON_VENV moves it."""
    return Path(os.environ.get("SANDBOX_TRITON_VENV") or TRITON_VENV).expanduser().absolute()


def all_programs(home: Home, settings: Settings) -> list[Program]:
    """Return the programs of the whole sandbox, also of those parts that `up` leaves out."""
    from sandbox.envoy import envoy_command

    return [
        Program("s3", s3.s3_command(VENV / "bin" / "weed", home, settings), s3.s3_environment(), stop_s=10),
        *_tritons(home, settings),
        Program("envoy", envoy_command(VENV, home.envoy_bootstrap)),
        Program(
            "guard",
            [str(VENV / "bin" / "model-release"), "guard", "--every-s", str(_GUARD_EVERY_S)],
            {"MODEL_RELEASE_ENVIRONMENT": str(home.environment_file)},
        ),
        Program(
            "traffic",
            [sys.executable, "-m", "sandbox.traffic"],
            {"MODEL_RELEASE_ENVIRONMENT": str(home.environment_file), "PYTHONPATH": str(ROOT)} | _chosen_settings(),
            may_end=True,
        ),
        *airflow.airflow_programs(home, settings),
    ]


def _chosen_settings() -> dict[str, str]:
    """Hand on what moves the settings, as the programs run in another folder than the caller."""
    chosen = {name: os.environ[name] for name in ("SANDBOX_SETTINGS", "SANDBOX_PORT_BASE") if os.environ.get(name)}
    if "SANDBOX_SETTINGS" in chosen:
        chosen["SANDBOX_SETTINGS"] = str(Path(chosen["SANDBOX_SETTINGS"]).absolute())
    return chosen


def _tritons(home: Home, settings: Settings) -> list[Program]:
    from sandbox.triton import prepare_backends, replica_command, replica_environment

    venv = triton_venv()
    backends = prepare_backends(venv, home.triton)
    keys = s3.triton_keys(home)
    return [
        Program(
            server.name,
            replica_command(
                venv, backends, s3.repository_url(settings, server.fleet), server.http, server.grpc, server.metrics
            ),
            replica_environment(
                venv,
                keys.access_key_id,
                keys.secret_access_key,
                home.triton / "models" / server.name,
                control_key=home.triton_key,
            ),
            stop_s=_TRITON_STOP_S,
        )
        for server in settings.tritons()
    ]


def write_environment(home: Home, settings: Settings) -> None:
    """Write the library's environment of this sandbox, with the keys of S3 and of the Tritons."""
    from sandbox.triton import perf_analyzer_command

    keys = s3.pipeline_keys(home)
    fleets: dict[str, Any] = {fleet: {"replicas": []} for fleet in s3.FLEETS}
    for server in settings.tritons():
        addresses = {kind: f"{HOST}:{getattr(server, kind)}" for kind in ("http", "grpc", "metrics")}
        fleets[server.fleet]["replicas"].append({"name": server.name, **addresses})
    content = {
        "s3": {
            "endpoint_url": s3.endpoint(settings),
            "bucket": s3.MODELS,
            "prefix": "",
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
        },
        "pairs": {s3.PAIR: fleets},
        "router": {
            "kind": "envoy_files",
            "directory": str(home.envoy),
            "admin": [f"{HOST}:{settings.ports.router_admin}"],
            "http": f"{HOST}:{settings.ports.router}",
            "user_log": {"path": str(home.user_log)},
        },
        "triton_key": home.triton_key,
        "recycler": {"kind": "supervisor", "socket": str(home.socket)},
        "perf_analyzer": {"command": perf_analyzer_command(triton_venv(), home.triton)},
    }
    write_private(home.environment_file, yaml.safe_dump(content, sort_keys=False))

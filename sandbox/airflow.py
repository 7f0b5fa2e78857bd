"""Airflow's four processes: their environment, their commands, their database, and when they are healthy."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from sandbox.errors import SandboxError
from sandbox.home import Home, read_json, write_private
from sandbox.settings import HOST, ROOT, Settings
from sandbox.supervisor import Program, clean_environment, tail

PROCESSES = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
SETTINGS_FILE = ROOT / "airflow_settings.yaml"
_MIGRATION_DEADLINE_S = 180
_STOP_S = 20


def url(settings: Settings) -> str:
    """Return the address of the UI."""
    return f"http://{HOST}:{settings.ports.airflow}"


def airflow_environment(home: Home, settings: Settings) -> dict[str, str]:
    """Return all that the processes need to know; no airflow.cfg is edited."""
    fernet = base64.urlsafe_b64encode(hashlib.sha256(home.secret("airflow_fernet").encode()).digest()).decode()
    return {
        "AIRFLOW_HOME": str(home.airflow),
        "PYTHONPATH": str(ROOT / "include"),
        "MODEL_RELEASE_ENVIRONMENT": str(home.environment_file),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.airflow / 'airflow.db'}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        # A run ends by the DAGs and configs that it began with (docs/backfill.md); a cleared one takes the newest.
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([_bundle()]),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home.airflow / "bundles"),
        "AIRFLOW__CORE__RERUN_WITH_LATEST_VERSION": "True",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow.parallelism),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__FERNET_KEY": fernet,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url(settings)}/execution/",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(settings.ports.airflow),
        "AIRFLOW__API__BASE_URL": url(settings),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": home.secret("airflow_api"),
        "AIRFLOW__API_AUTH__JWT_SECRET": home.secret("airflow_jwt", 32),
        # A busy machine answers late; the default of 5 s fails a task before it started.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        # An answer within so many seconds of its question is lost: Airflow takes the task for failed (docs/people.md).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # New DAG files are listed often, known ones parsed seldom: parsing costs seconds of CPU.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    }


def _bundle() -> dict[str, Any]:
    arguments = {"project": str(ROOT), "configs": os.environ.get("MODEL_RELEASE_CONFIGS")}
    return {"name": "model-release", "classpath": "model_release_airflow.bundle.ProjectBundle", "kwargs": arguments}


def airflow_programs(home: Home, settings: Settings) -> list[Program]:
    """Return the four processes; logs are read from the shared folder, so no log server is opened."""
    airflow = str(Path(sys.executable).with_name("airflow"))
    commands = {
        "airflow-api-server": ["api-server", "--host", HOST, "--port", str(settings.ports.airflow)],
        "airflow-scheduler": ["scheduler", "--skip-serve-logs"],
        "airflow-dag-processor": ["dag-processor"],
        "airflow-triggerer": ["triggerer", "--skip-serve-logs"],
    }
    environment = airflow_environment(home, settings)
    return [Program(name, [airflow, *commands[name]], environment, stop_s=_STOP_S) for name in PROCESSES]


def start_preparing(home: Home, settings: Settings) -> subprocess.Popen[bytes] | None:
    """Start to migrate the database and to load airflow_settings.yaml, unless both are as they were."""
    if read_json(home.airflow / "prepared.json") == _fingerprint():
        return None
    log = home.logs / "airflow-database.log"
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "sandbox.airflow_database", str(SETTINGS_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={
                **clean_environment(home),
                **airflow_environment(home, settings),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "include")]),
            },
        )


def await_prepared(home: Home, preparing: subprocess.Popen[bytes] | None) -> None:
    """
    Wait for the database.

    Raises SandboxError with the last line of its log when it failed or took too long.
    """
    if preparing is None:
        return
    try:
        failed = preparing.wait(_MIGRATION_DEADLINE_S) != 0
    except subprocess.TimeoutExpired:
        preparing.kill()
        preparing.wait()
        failed = True
    if failed:
        log = home.logs / "airflow-database.log"
        message = f"Airflow's database was not prepared: {tail(log, 1)} (see {log})"
        raise SandboxError(message)
    write_private(home.airflow / "prepared.json", json.dumps(_fingerprint()))


def is_healthy(settings: Settings) -> bool:
    """Tell whether the API answers and reports every process as healthy."""
    return not unhealthy_parts(settings)


def unhealthy_parts(settings: Settings) -> list[str]:
    """Return the parts that Airflow itself does not call healthy."""
    expected = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url(settings)}/api/v2/monitor/health", timeout=5) as response:
            health = json.load(response)
    except (OSError, ValueError):
        return ["api-server"]
    return [part for part in expected if (health.get(part) or {}).get("status") != "healthy"]


def _fingerprint() -> dict[str, str]:
    from importlib.metadata import version

    settings = SETTINGS_FILE.read_bytes() if SETTINGS_FILE.exists() else b""
    return {"airflow": version("apache-airflow-core"), "settings": hashlib.sha256(settings).hexdigest()}

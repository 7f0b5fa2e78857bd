"""A Triton on a folder of its own, and the usual alternative: FastAPI with onnxruntime, a worker a core."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model_release.benchmark.meter import Target
from model_release.environment import Environment, PerfAnalyzer, Replica
from model_release.triton import config as configs
from model_release.triton.replica import ReplicaClient
from sandbox.errors import SandboxError
from sandbox.exports.checkpoints import no_servers
from sandbox.settings import HOST, ROOT
from sandbox.show_benchmarks.models import Shown
from sandbox.triton import perf_analyzer_command, prepare_backends, replica_command, replica_environment

VENV = ROOT / ".venv-triton"
_START_S = 120
_VERSION = 1
_LOAD_S = 120


def free_ports(number: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class LocalTriton:
    """A Triton that serves what is put into its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir(parents=True)
        http, grpc, metrics = free_ports(3)
        self.replica = Replica(name="triton", http=f"{HOST}:{http}", grpc=f"{HOST}:{grpc}", metrics=f"{HOST}:{metrics}")
        analyzer = PerfAnalyzer(command=perf_analyzer_command(VENV, folder))
        changes = {"perf_analyzer": analyzer, "load_timeout_s": float(_LOAD_S), "call_timeout_s": 30.0}
        self.environment: Environment = no_servers().model_copy(update=changes)
        self._command = replica_command(VENV, prepare_backends(VENV, folder), str(self.folder), http, grpc, metrics)
        self._variables = replica_environment(VENV, "none", "none", folder / "temp")
        self._log = folder / "triton.log"

    def place(self, onnx: Path, config: Any) -> None:
        """Put a model there under its config's name; `load` has it served."""
        place = self.folder / config.name / str(_VERSION)
        place.mkdir(parents=True, exist_ok=True)
        for file in onnx.parent.glob(f"{onnx.name}*"):
            shutil.copy(file, place / file.name.replace(onnx.name, "model.onnx"))
        self.load(config)

    def load(self, config: Any) -> None:
        """Write a config and have it served."""
        path = self.folder / config.name / "config.pbtxt"
        path.write_text(configs.render(config, epoch=0))
        later = time.time() + 2  # Triton compares whole seconds at some places, and takes only what is newer
        os.utime(path, (later, later))
        with ReplicaClient(self.replica, self.environment) as client:
            client.load(config.name, _LOAD_S, version=_VERSION, config=config)

    def target(self, shown: Shown, model: str | None = None) -> Target:
        """Return a model of it as the benchmark measures it."""
        return Target(model or shown.name, self.replica, self.environment, shown.recorded())

    def applier(self, shown: Shown) -> Callable[[configs.Tuning], None]:
        """Return what brings a tuning of a model onto it."""
        spec = shown.spec()
        return lambda tuning: self.load(configs.build_config(spec, _VERSION, tuning))

    @contextmanager
    def running(self) -> Iterator[LocalTriton]:
        """Run it, and end it whatever happens."""
        with (
            process(self._command, self._variables, self._log),
            ReplicaClient(self.replica, self.environment) as client,
        ):
            await_true(client.live, "Triton", self._log)
            yield self


@contextmanager
def fastapi(shown: Shown, onnx: Path, folder: Path, workers: int) -> Iterator[str]:
    """Run FastAPI with a number of workers, each with a session of one thread; gives host:port."""
    (port,) = free_ports(1)
    app = "sandbox.show_benchmarks.fastapi_app:app"
    command = [sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", str(port)]
    command += ["--workers", str(workers), "--log-level", "warning", "--no-access-log"]
    variables = {
        **os.environ,
        "SHOWN_ONNX": str(onnx),
        "SHOWN_MODEL": shown.name,
        "SHOWN_MAX_BATCH_SIZE": str(shown.max_batch_size),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'include'}",
        "OMP_NUM_THREADS": "1",
    }
    log = folder / "fastapi.log"

    def ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/v2/health/ready", timeout=2) as answer:
            return int(answer.status) == 200
        return False

    with process(command, variables, log):
        await_true(ready, "FastAPI", log)
        yield f"{HOST}:{port}"


@contextmanager
def process(
    command: list[str], variables: dict[str, str], log: Path, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, in a folder, and end it and all that it started whatever happens."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, env=variables, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            started.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(10)


def await_true(ready: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until a server answers. Raises SandboxError with the end of its log."""
    deadline = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > deadline:
            message = f"{what} did not come up in {_START_S} s: {log.read_text()[-500:]}"
            raise SandboxError(message)
        time.sleep(0.1)

"""Real Tritons on prefixes of their own, and small models to put there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_release.environment import Environment, Fleet, Replica
from model_release.spec import ModelSpec, Tolerance
from model_release.triton import config as configs
from model_release.triton.fleet import load_everywhere, prove
from model_release.triton.replica import ReplicaClient
from sandbox import s3
from sandbox.settings import HOST, ROOT
from sandbox.triton import prepare_backends, replica_command, replica_environment
from tests.sandbox.ports import free_ports

VENV = ROOT / ".venv-triton"
MODEL = "line"
VERSION = 20260101000000
START_DEADLINE_S = 60
TOLERANCE = {"y": Tolerance(atol=1e-5, rtol=1e-5)}


def spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": MODEL,
        "source": {"checkpoint": "s3://training/line.safetensors", "factory": "example:build"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [4]}],
        "parity": {"batch_sizes": [1, 8]},
        "serving": {"max_batch_size": 8, "instance_group": {"kind": "cpu", "count": 1}},
    }
    return ModelSpec.model_validate({**values, **changes})


def onnx_bytes(slope: float = 2.0) -> bytes:
    """Return the ONNX file of y = slope * x."""
    node = helper.make_node("Mul", ["x", "slope"], ["y"])
    graph = helper.make_graph(
        [node],
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.float32(slope), "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(onnx.checker.check_model(model) or model.SerializeToString())


def lookup_bytes() -> bytes:
    """Return the ONNX file of y = (5, 7)[x], which fails where x is no index of the two."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.float32([5, 7]), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def recorded(slope: float = 2.0, samples: int = 6) -> dict[str, np.ndarray[Any, Any]]:
    x = np.random.default_rng(7).normal(size=(samples, 4)).astype(np.float32)
    return {"input__x": x, "output__y": np.float32(slope) * x}


@dataclass
class Server:
    """One Triton that the tests started."""

    name: str
    prefix: str
    ports: tuple[int, int, int]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def replica(self) -> Replica:
        http, grpc, metrics = (f"{HOST}:{port}" for port in self.ports)
        return Replica(name=self.name, http=http, grpc=grpc, metrics=metrics)

    def kill(self) -> None:
        """End it at once, and the processes of its Python backend, which outlive one that was still starting them."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@dataclass
class Tritons:
    """Starts Tritons, and puts models where they look."""

    store: Any
    endpoint: str
    triton_keys: s3.Keys
    bucket: str
    folder: Path
    environment: Environment
    backends: Path = field(init=False)
    servers: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backends = prepare_backends(VENV, self.folder)

    def start(self, name: str, prefix: str | None = None, *, endpoint: str | None = None) -> Server:
        """Start a Triton, which only the environment's key controls, and wait until it is live."""
        prefix = prefix or f"tests/{name}"
        self.put(f"{prefix}/.keep", b"")
        http, grpc, metrics = islice(free_ports(), 3)
        ports = (http, grpc, metrics)
        url = f"s3://{endpoint or self.endpoint}/{self.bucket}/{prefix}"
        log = self.folder / f"{name}.log"
        keys, temp, control = self.triton_keys, self.folder / f"{name}-temp", self.environment.triton_key
        assert control is not None
        variables = replica_environment(
            VENV, keys.access_key_id, keys.secret_access_key, temp, control_key=control.get_secret_value()
        )
        with log.open("wb") as out:
            process = subprocess.Popen(
                replica_command(VENV, self.backends, url, *ports),
                env=variables,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        server = Server(name, prefix, ports, process, log)
        self.servers.append(server)
        with ReplicaClient(server.replica, self.environment) as client:
            await_true(client.live, START_DEADLINE_S, lambda: log.read_text()[-2000:], process)
        return server

    def put(self, key: str, body: bytes) -> None:
        self.store.put_object(Bucket=self.bucket, Key=key, Body=body)

    def place(
        self,
        server: Server,
        model_spec: ModelSpec | None = None,
        version: int = VERSION,
        *,
        model_bytes: bytes | None = None,
        change: Callable[[Any], None] | None = None,
    ) -> Any:
        """Put a version and its config where a server looks, and return the config that was asked for."""
        model_spec = model_spec or spec()
        root = f"{server.prefix}/{model_spec.name}"
        self.put(f"{root}/{version}/model.onnx", onnx_bytes() if model_bytes is None else model_bytes)
        for name, array in recorded().items():
            if name.startswith("input__"):
                self.put(f"{root}/warmup/{name.removeprefix('input__')}", array[0].tobytes())
        config = configs.build_config(model_spec, version)
        self.write_config(server, config, change)
        return config

    def write_config(self, server: Server, config: Any, change: Callable[[Any], None] | None = None) -> None:
        """Write config.pbtxt in a second of its own, as Triton sees changes by whole seconds."""
        written = configs.parse(configs.render(config, epoch=1))
        if change:
            change(written)
        time.sleep(1 - time.time() % 1 + 0.05)
        self.put(f"{server.prefix}/{config.name}/config.pbtxt", configs.render(written, epoch=1).encode())

    def remove(self, server: Server, model: str = MODEL) -> None:
        """Unload a model and delete its objects."""
        with ReplicaClient(server.replica, self.environment) as client:
            client.unload(model)
            await_true(lambda: not client.ready(model), 10)
        pages = self.store.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{server.prefix}/{model}/"
        )
        for entry in [entry for page in pages for entry in page.get("Contents", [])]:
            self.store.delete_object(Bucket=self.bucket, Key=entry["Key"])

    def fleet(self, *servers: Server) -> Fleet:
        return Fleet(replicas=[server.replica for server in servers])

    def stop(self) -> None:
        for server in self.servers:
            server.process.terminate()
        for server in self.servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(15)
            server.kill()


def unclaimed() -> None:
    """Stand for a claim that is never lost."""


def load(tritons: Tritons, *servers: Server, version: int = VERSION) -> None:
    load_everywhere(tritons.fleet(*servers), MODEL, version, tritons.environment, unclaimed)


def proofs(
    tritons: Tritons, servers: tuple[Server, ...], config: Any, *, slope: float = 2.0, version: int = VERSION
) -> list[dict[str, Any]]:
    return prove(tritons.fleet(*servers), MODEL, version, config, recorded(slope), TOLERANCE, tritons.environment)


def await_true(
    condition: Callable[[], bool],
    timeout_s: float,
    explain: Callable[[], str] = lambda: "",
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            pytest.fail(f"the condition did not come true in {timeout_s} s: {explain()}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def tritons(sandbox: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritons]:
    """Start Tritons on the S3 of the running sandbox, and end them after the last test."""
    folder = tmp_path_factory.mktemp("tritons")
    settings, home = sandbox.settings, sandbox.home
    environment = sandbox.environment.model_copy(update={"call_timeout_s": 5.0, "load_timeout_s": 20.0})
    client = s3.client(settings, s3.pipeline_keys(home))
    started = Tritons(client, s3.endpoint(settings), s3.triton_keys(home), s3.MODELS, folder, environment)
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def pair(tritons: Tritons) -> tuple[Server, Server]:
    """Two replicas, each on a prefix of its own, so that they can be given different things."""
    return tritons.start("fleet-0"), tritons.start("fleet-1")


@pytest.fixture
def emptied(tritons: Tritons, pair: tuple[Server, Server]) -> Iterator[None]:
    """Take a test's model off both replicas after it."""
    yield
    for server in pair:
        tritons.remove(server)

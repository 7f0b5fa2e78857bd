"""What Envoy costs: the same requests through the router and straight to the replica, by turns."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_release.environment import Environment
from model_release.traffic.envoy import EnvoyRouter, initialise
from model_release.traffic.router import Route
from model_release.triton import config as configs
from sandbox.envoy import envoy_command, write_bootstrap
from sandbox.settings import HOST
from sandbox.show_benchmarks.models import Shown
from sandbox.show_benchmarks.page import say, table
from sandbox.show_benchmarks.servers import LocalTriton, await_true, free_ports

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_TYPES = {"float32": "FP32", "int64": "INT64"}
DIRECT, ROUTED = "direct", "through Envoy"


@dataclass
class Latencies:
    """p50 and p99 in ms of each round, direct and through Envoy, at one concurrency."""

    concurrency: int
    p50_ms: dict[str, list[float]]
    p99_ms: dict[str, list[float]]


def measure(
    shown: Shown, onnx: Path, folder: Path, venv: Path, *, levels: Sequence[int], rounds: int, seconds: float
) -> list[Latencies]:
    """Send the same requests both ways, by turns."""
    triton = LocalTriton(folder)
    with triton.running(), _envoy(triton, shown.name, folder, venv) as routed:
        triton.place(onnx, configs.build_config(shown.spec(), 1))
        request = _request(shown)
        found = []
        for level in levels:
            latencies = Latencies(level, {DIRECT: [], ROUTED: []}, {DIRECT: [], ROUTED: []})
            for number in range(rounds):
                ways = [(DIRECT, triton.replica.grpc), (ROUTED, routed)]
                for way, address in ways if number % 2 == 0 else ways[::-1]:
                    took = asyncio.run(_load(address, shown.name, request, level, seconds))
                    latencies.p50_ms[way].append(float(np.percentile(took, 50)))
                    latencies.p99_ms[way].append(float(np.percentile(took, 99)))
            say(f"{shown.name}: {level} at a time")
            found.append(latencies)
    return found


@contextmanager
def _envoy(triton: LocalTriton, model: str, folder: Path, venv: Path) -> Iterator[str]:
    """Run Envoy with the product's own listener, clusters and route of the model; gives host:port."""
    admin, port = free_ports(2)
    environment = _routed(triton, folder / "envoy", admin, port)
    initialise(environment, HOST, port)
    write_bootstrap(folder / "bootstrap.json", folder / "envoy", admin)
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(envoy_command(venv, folder / "bootstrap.json"), stdout=log, stderr=log)
    try:
        route = Route(model, "default", 1, "blue", None, {"blue": 100, "green": 0}, {"blue": 1, "green": None})
        router = EnvoyRouter(environment)
        await_true(lambda: _answers(admin), "Envoy", folder / "envoy.log")
        router.set(route)
        router.confirm(route, timeout_s=30)
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(15)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _routed(triton: LocalTriton, directory: Path, admin: int, port: int) -> Environment:
    replicas = {"replicas": [triton.replica.model_dump()]}
    router = {"directory": directory, "admin": [f"{HOST}:{admin}"], "http": f"{HOST}:{port}"}
    pairs = {"default": dict.fromkeys(("blue", "green", "bench"), replicas)}
    return Environment.model_validate(
        {"s3": {"bucket": "none"}, "pairs": pairs, "router": router, "call_timeout_s": 20}
    )


def _request(shown: Shown) -> bytes:
    """Return a request of one sample."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=shown.name)
    for name, array in shown.samples().items():
        one = np.ascontiguousarray(array[:1])
        request.inputs.add(name=name, datatype=_TYPES[one.dtype.name], shape=one.shape)
        request.raw_input_contents.append(one.tobytes())
    return bytes(request.SerializeToString())


async def _load(address: str, model: str, request: bytes, concurrency: int, seconds: float) -> list[float]:
    """Send requests for some seconds, as many at a time, and return how long each took in ms."""
    import grpc

    took: list[float] = []
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        infer: Any = channel.unary_unary(_INFER)

        async def client(until: float) -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                await infer(request, metadata=(("x-model", model),), timeout=30)
                took.append((time.monotonic() - began) * 1000)

        await client(time.monotonic() + 0.2)  # connected, and warm
        took.clear()
        until = time.monotonic() + seconds
        await asyncio.gather(*(client(until) for _ in range(concurrency)))
    return took


def page(model: str, found: Sequence[Latencies]) -> str:
    """Return the section of the page."""
    rows = []
    for each in found:
        cells: list[str] = []
        for by_way in (each.p50_ms, each.p99_ms):
            direct, routed = (statistics.median(by_way[way]) for way in (DIRECT, ROUTED))
            more = statistics.median(b - a for a, b in zip(by_way[DIRECT], by_way[ROUTED], strict=True))
            cells += [f"{direct:.2f}", f"{routed:.2f}", f"{more:+.2f}"]
        rows.append([each.concurrency, *cells])
    head = ["at a time", "p50 direct", "p50 Envoy", "more", "p99 direct", "p99 Envoy", "more"]
    rounds = len(found[0].p50_ms[DIRECT])
    said = (
        f"{model} over gRPC, from an asyncio client on the same machine, in ms: medians of {rounds} rounds by turns; "
        "'more' is the median of the differences by round. Envoy has one thread, as in the sandbox, and shares the "
        "cores.\n\n"
    )
    return said + table(head, rows)

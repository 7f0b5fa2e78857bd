"""A real Envoy, and small HTTP and gRPC servers in the place of Triton."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from model_release.environment import Environment
from model_release.traffic.envoy import EnvoyRouter
from model_release.traffic.router import Route
from sandbox.envoy import envoy_command

VENV = Path(sys.executable).parent.parent
MODEL = "digits_classifier"
LOST = "lost"
INFER = f"/v2/models/{MODEL}/infer"
#: How long a busy machine may take for what comes about at once on an idle one.
AWAITED_S = 60


def eventually(true: Callable[[], bool], within_s: float = AWAITED_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


#: How long a request is left waiting: `stuck` well beyond any timeout that a test asks of the router.
WAITS_S = {"hang": 1, "stuck": 4}


def mode_of(asked: str, fleet: str) -> str:
    """What a request asks of the replica that it reaches: `broken` of any, `green:broken` of green's alone, or both."""
    by_fleet = {whose: mode for whose, _, mode in (each.rpartition(":") for each in asked.split())}
    return by_fleet.get(fleet, by_fleet.get("", ""))


class HttpReplica(http.server.BaseHTTPRequestHandler):
    """Answers with its fleet's name, or as the request's `x-mode` asks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        mode = mode_of(self.headers.get("x-mode", ""), self.server.fleet)  # type: ignore[attr-defined]
        time.sleep(WAITS_S.get(mode, 0))
        body = self.server.fleet.encode()  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            lost = self.server.fleet == LOST  # type: ignore[attr-defined]
            self.send_response(404 if lost else {"broken": 500, "refused": 400}.get(mode, 200))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()


class GrpcReplica(grpc.GenericRpcHandler):
    def __init__(self, fleet: str) -> None:
        self.fleet = fleet

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            mode = mode_of(dict(context.invocation_metadata()).get("x-mode", ""), self.fleet)
            if mode == "broken":
                context.abort(grpc.StatusCode.INTERNAL, "the model failed")
            if self.fleet == LOST or mode == "not-found":
                context.abort(grpc.StatusCode.NOT_FOUND, "unknown model or version")
            if mode == "refused":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such input")
            time.sleep(WAITS_S.get(mode, 0))
            return self.fleet.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class Upstreams:
    """One replica of each fleet, over both protocols, and one that has lost the model."""

    def __init__(self) -> None:
        self._stop: list[Callable[[], object]] = []
        self.pairs: dict[str, Any] = {
            fleet: {"replicas": [self._replica(fleet)]} for fleet in ("blue", "green", "bench")
        }

        self.lost = self._replica(LOST)

    def _replica(self, fleet: str) -> dict[str, str]:
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HttpReplica)
        web.fleet = fleet  # type: ignore[attr-defined]
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        rpc = grpc.server(futures.ThreadPoolExecutor(8), handlers=[GrpcReplica(fleet)])
        port = rpc.add_insecure_port("127.0.0.1:0")
        rpc.start()
        self._stop += [web.shutdown, web.server_close, lambda: rpc.stop(None)]
        addresses = {"http": f"127.0.0.1:{web.server_port}", "grpc": f"127.0.0.1:{port}"}
        return {"name": fleet, "metrics": "127.0.0.1:1", **addresses}

    def stop(self) -> None:
        for action in self._stop:
            action()


@dataclass
class Sandbox:
    environment: Environment
    bootstrap: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self.environment.router.directory

    @property
    def port(self) -> int:
        return int(self.environment.router.http.split(":")[1])

    @property
    def admin(self) -> int:
        return int(self.environment.router.admin[0].split(":")[1])

    def start(self) -> None:
        log = (self.directory.parent / "envoy.log").open("ab")
        self.process = subprocess.Popen(envoy_command(VENV, self.bootstrap), stderr=log, stdout=log)
        eventually(self.listens)

    def listens(self) -> bool:
        try:
            return self.get("/nothing").status == 404
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def get(self, path: str = INFER, timeout_s: float = 10, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", path, body, headers=given)
            reply = connection.getresponse()
            return Answer(reply.status, reply.read().decode(), dict(reply.getheaders()))
        finally:
            connection.close()

    def channel(self, authority: str | None = None) -> grpc.Channel:
        options = [("grpc.default_authority", authority)] if authority else []
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str]


def call(channel: grpc.Channel, method: str = "ModelInfer", timeout_s: float = 10, **metadata: str) -> tuple[str, dict]:
    given = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    stub = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    reply, done = stub.with_call(b"", metadata=given, timeout=timeout_s)
    return reply.decode(), dict(done.initial_metadata())


def put(router: EnvoyRouter, asked: Route) -> None:
    router.set(asked)
    router.confirm(asked, timeout_s=AWAITED_S)

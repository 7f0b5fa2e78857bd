"""The router against a real Envoy, with small HTTP and gRPC servers in the place of Triton."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from model_release.environment import Environment
from model_release.errors import RouteNotConfirmed, RouterUnavailable, RouteTakenOver, RouteUnreadable
from model_release.traffic import connect
from model_release.traffic.envoy import EnvoyRouter, initialise
from model_release.traffic.envoy_resources import NOT_ROUTED, response
from model_release.traffic.router import Route
from sandbox.envoy import envoy_command, write_bootstrap
from tests.contracts.router import NEW, OLD, RouterContract, route, unreleased

VENV = Path(sys.executable).parent.parent
MODEL = "digits_classifier"
PROTOCOLS = ("_http", "_grpc")
INFER = f"/v2/models/{MODEL}/infer"


def eventually(true: Callable[[], bool], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


# --- upstreams ---------------------------------------------------------------------------------


class HttpReplica(http.server.BaseHTTPRequestHandler):
    """Answers with its fleet's name, or as the request's `x-mode` asks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        mode = self.headers.get("x-mode", "")
        if mode == "hang":
            time.sleep(1)
        body = self.server.fleet.encode()  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response({"broken": 500, "refused": 400}.get(mode, 200))
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
            mode = dict(context.invocation_metadata()).get("x-mode", "")
            if mode == "broken":
                context.abort(grpc.StatusCode.INTERNAL, "the model failed")
            if mode == "refused":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such input")
            if mode == "hang":
                time.sleep(1)
            return self.fleet.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@dataclass
class Upstreams:
    pairs: dict[str, Any]
    stop: list[Callable[[], object]]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    stop: list[Callable[[], object]] = []

    def replica(fleet: str) -> dict[str, str]:
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HttpReplica)
        web.fleet = fleet  # type: ignore[attr-defined]
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        rpc = grpc.server(futures.ThreadPoolExecutor(8), handlers=[GrpcReplica(fleet)])
        port = rpc.add_insecure_port("127.0.0.1:0")
        rpc.start()
        stop.extend([web.shutdown, web.server_close, lambda: rpc.stop(None)])
        addresses = {"http": f"127.0.0.1:{web.server_port}", "grpc": f"127.0.0.1:{port}"}
        return {"name": fleet, "metrics": "127.0.0.1:1", **addresses}

    pairs = {fleet: {"replicas": [replica(fleet)]} for fleet in ("blue", "green", "bench")}
    yield Upstreams(pairs, stop)
    for action in stop:
        action()


# --- Envoy -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    def get(self, path: str = INFER, timeout_s: float = 10, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", path, headers=given)
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


@pytest.fixture
def sandbox(tmp_path: Path, upstreams: Upstreams) -> Iterator[Sandbox]:
    admin, port = free_port(), free_port()
    environment = Environment.model_validate(
        {
            "s3": {"bucket": "models"},
            "pairs": {"default": upstreams.pairs},
            "router": {
                "directory": tmp_path / "envoy",
                "admin": [f"127.0.0.1:{admin}"],
                "http": f"127.0.0.1:{port}",
            },
            "call_timeout_s": 3,
        }
    )
    made = Sandbox(environment, tmp_path / "bootstrap.json")
    initialise(environment, "127.0.0.1", port)
    write_bootstrap(made.bootstrap, made.directory, admin)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def router(sandbox: Sandbox) -> EnvoyRouter:
    return EnvoyRouter(sandbox.environment)


def put(router: EnvoyRouter, asked: Route) -> None:
    router.set(asked)
    router.confirm(asked, timeout_s=5)


class TestEnvoyRouter(RouterContract):
    pass


# --- what clients see --------------------------------------------------------------------------


def test_before_the_first_release_both_protocols_say_so(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, unreleased(MODEL))
    answer = sandbox.get()
    assert (answer.status, answer.body) == (503, f"no released version of {MODEL}")
    with sandbox.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        call(channel, x_model=MODEL)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == f"no released version of {MODEL}"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/unknown/infer",
        f"/v2/models/{MODEL}_b/infer",
        f"/v2/models/{MODEL}/config",
        f"/v2/models/{MODEL}/trace/setting",
        f"/v2/models/{MODEL}/versions/1/infer",
        "/v2/repository/index",
        f"/v2/repository/models/{MODEL}/unload",
        "/v2/systemsharedmemory/status",
        "/v2/logging",
    ],
)
def test_http_without_a_routed_model_gets_404_and_a_sentence(sandbox: Sandbox, router: EnvoyRouter, path: str) -> None:
    put(router, route(MODEL))
    answer = sandbox.get(path)
    assert (answer.status, answer.body) == (404, NOT_ROUTED)


def test_grpc_that_names_no_model_or_asks_for_control_gets_unimplemented_and_a_sentence(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    put(router, route(MODEL))
    with sandbox.channel() as channel:
        cases: list[tuple[str, dict[str, str]]] = [("ModelInfer", {}), ("ModelInfer", {"x_model": "unknown"})]
        controls = ("RepositoryModelUnload", "RepositoryIndex", "SystemSharedMemoryRegister", "TraceSetting")
        for method, metadata in cases + [(method, {"x_model": MODEL}) for method in controls]:
            with pytest.raises(grpc.RpcError) as refused:
                call(channel, method, **metadata)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert refused.value.details() == NOT_ROUTED


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata"])
@pytest.mark.parametrize(
    ("authority", "metadata"),
    [
        (None, {"x_model": MODEL}),
        ("digits_classifier.models.test", {}),
        ("digits-classifier.models.test:8080", {}),
        ("another.models.test", {"x_model": MODEL}),
    ],
)
def test_grpc_names_its_model_by_metadata_or_authority(
    sandbox: Sandbox, router: EnvoyRouter, method: str, authority: str | None, metadata: dict[str, str]
) -> None:
    put(router, route(MODEL, canary_percent=0))
    with sandbox.channel(authority) as channel:
        body, headers = call(channel, method, **metadata)
    assert (body, headers["x-model-arm"], headers["x-model-version"]) == ("blue", "stable", str(OLD))


def test_every_answer_says_arm_and_version_also_a_failed_one(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=100))
    for mode, status in (("", 200), ("broken", 500), ("refused", 400)):
        answer = sandbox.get(x_mode=mode)
        assert answer.status == status
        assert (answer.headers["x-model-arm"], answer.headers["x-model-version"]) == ("canary", str(NEW))


def test_a_header_forces_the_arm_at_any_weight(sandbox: Sandbox, router: EnvoyRouter) -> None:
    with sandbox.channel() as channel:
        for percent in (0, 100):
            put(router, route(MODEL, canary_percent=percent))
            for arm, fleet in (("stable", "blue"), ("canary", "green")):
                assert sandbox.get(x_model_force_arm=arm).body == fleet
                assert call(channel, x_model=MODEL, x_model_force_arm=arm)[0] == fleet


def test_after_a_promotion_the_former_canary_is_stable_and_nothing_can_be_forced_to_the_standby(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    put(router, route(MODEL, canary_percent=100))
    swapped = route(MODEL, 2, 100, stable="green", canary=None, versions={"blue": OLD, "green": NEW})
    put(router, swapped)
    for headers in ({}, {"x_model_force_arm": "canary"}):
        answer = sandbox.get(**headers)
        assert (answer.body, answer.headers["x-model-arm"]) == ("green", "stable")


class Load:
    """Clients of both protocols that count which fleet answered while each weight held."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.weight, self.failures = sandbox, "", list[str]()
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for ask in (self._http, self._grpc)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def answered(self, protocol: str, weight: str) -> tuple[int, int]:
        blue, green = (self.seen[protocol, weight, fleet] for fleet in ("blue", "green"))
        return blue + green, green

    def _run(self, ask: Callable[[], Iterator[str]]) -> None:
        answers = ask()
        while not self._ended.is_set():
            before = self.weight
            try:
                body = next(answers)
            except Exception as error:
                self.failures.append(repr(error))
                return
            if before == self.weight:
                self.seen[ask.__name__, before, body] += 1

    def _http(self) -> Iterator[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.sandbox.port, timeout=5)
        while True:
            connection.request("POST", INFER)
            reply = connection.getresponse()
            body = reply.read().decode()
            yield body if reply.status == 200 else f"{reply.status} {body}"

    def _grpc(self) -> Iterator[str]:
        with self.sandbox.channel() as channel:
            while True:
                yield call(channel, x_model=MODEL)[0]


def test_weights_split_as_asked_and_no_request_fails_through_the_switches(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    put(router, route(MODEL, canary_percent=0))
    with Load(sandbox) as load:
        for epoch, percent in enumerate((10, 50, 100, 0), start=1):
            load.weight = "switching"
            put(router, route(MODEL, epoch, percent))
            # What was on its way while the route changed belongs to neither weight.
            before = sum(load.seen.values())
            eventually(lambda before=before: sum(load.seen.values()) > before + 4)
            load.weight = f"{percent} %"
            eventually(
                lambda weight=load.weight: (
                    bool(load.failures) or all(load.answered(protocol, weight)[0] >= 300 for protocol in PROTOCOLS)
                ),
                within_s=60,
            )
    assert load.failures == []
    assert {body for _, _, body in load.seen} == {"blue", "green"}
    for protocol in PROTOCOLS:
        for percent in (10, 50, 100, 0):
            total, canary = load.answered(protocol, f"{percent} %")
            share = percent / 100
            # Five standard deviations, so that chance alone fails one run in a million.
            assert abs(canary - share * total) <= 5 * (share * (1 - share) * total) ** 0.5


# --- counters ----------------------------------------------------------------------------------


def test_counters_hold_the_arms_faults_of_both_protocols_and_not_the_clients(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    put(router, route(MODEL, canary_percent=100))
    with sandbox.channel() as channel:
        for mode in ("", "", "broken", "refused"):
            sandbox.get(x_mode=mode)
            with contextlib.suppress(grpc.RpcError):
                call(channel, x_model=MODEL, x_mode=mode)
    eventually(lambda: router.counters(MODEL, "default")["green"].latency_buckets.get("+Inf") == 8)
    counters = router.counters(MODEL, "default")
    assert (counters["green"].requests, counters["green"].errors) == (8, 2)
    assert counters["blue"].requests == 0
    buckets = list(counters["green"].latency_buckets.items())
    assert [float(bound) for bound, _ in buckets] == sorted(float(bound) for bound, _ in buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)


def test_a_request_that_its_client_gave_up_was_slower_than_any_bound(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=100))
    sandbox.get()
    with pytest.raises(TimeoutError):
        sandbox.get(timeout_s=0.2, x_mode="hang")
    with sandbox.channel() as channel:
        call(channel, x_model=MODEL)
        stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        # No deadline: with one, the server may end the call before the client does.
        given_up = stub.future(b"", metadata=[("x-model", MODEL), ("x-mode", "hang")])
        with pytest.raises(grpc.FutureTimeoutError):
            given_up.result(timeout=0.2)
        given_up.cancel()
    eventually(lambda: router.counters(MODEL, "default")["green"].latency_buckets.get("+Inf") == 4)
    counters = router.counters(MODEL, "default")["green"]
    assert max(count for bound, count in counters.latency_buckets.items() if bound != "+Inf") == 2
    assert counters.errors == 0


def test_a_dead_fleet_is_counted_as_errors_in_both_protocols(
    sandbox: Sandbox, router: EnvoyRouter, upstreams: Upstreams
) -> None:
    dead = {"replicas": [{"name": "dead", "http": f"127.0.0.1:{free_port()}", "grpc": f"127.0.0.1:{free_port()}",
                          "metrics": "127.0.0.1:1"}]}  # fmt: skip
    broken = sandbox.environment.model_dump()
    broken["pairs"]["default"]["green"] = dead
    router = EnvoyRouter(Environment.model_validate(broken))
    put(router, route(MODEL, canary_percent=100))
    answer = sandbox.get()
    assert (answer.status, answer.headers["x-model-arm"]) == (503, "canary")
    with sandbox.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        call(channel, x_model=MODEL)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    counters = router.counters(MODEL, "default")["green"]
    assert counters.requests == counters.errors >= 2


def test_a_dead_replica_costs_no_client_an_answer_but_is_counted(sandbox: Sandbox, upstreams: Upstreams) -> None:
    broken = sandbox.environment.model_dump()
    dead = {"name": "dead", "http": f"127.0.0.1:{free_port()}", "grpc": f"127.0.0.1:{free_port()}",
            "metrics": "127.0.0.1:1"}  # fmt: skip
    broken["pairs"]["default"]["green"] = {"replicas": [upstreams.pairs["green"]["replicas"][0], dead]}
    router = EnvoyRouter(Environment.model_validate(broken))
    put(router, route(MODEL, canary_percent=100))
    with sandbox.channel() as channel:
        for _ in range(10):
            assert sandbox.get().body == "green"
            assert call(channel, x_model=MODEL)[0] == "green"
    counters = router.counters(MODEL, "default")["green"]
    assert counters.errors >= 5
    assert counters.requests == 20 + counters.errors


# --- writers and files -------------------------------------------------------------------------


def test_of_two_writers_racing_the_newer_epoch_always_wins(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL))
    for turn in range(10):
        older, newer = 2 * turn + 2, 2 * turn + 3
        start = threading.Barrier(2)
        refused: list[int] = []

        def write(epoch: int, start: threading.Barrier = start, refused: list[int] = refused) -> None:
            own = EnvoyRouter(sandbox.environment)
            start.wait()
            for percent in (10, 50):
                try:
                    own.set(route(MODEL, epoch, percent))
                except RouteTakenOver:
                    refused.append(epoch)

        threads = [threading.Thread(target=write, args=(epoch,)) for epoch in (older, newer)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert router.read(MODEL) == route(MODEL, newer, 50)
        assert newer not in refused
    router.confirm(route(MODEL, 21, 50), timeout_s=5)


KILLED_BEFORE_RENAME = """
import sys, time
from pathlib import Path
from model_release.environment import load_environment
from model_release.traffic import connect
from tests.contracts.router import route

def stop(self, target):
    if target.name == "rds.json":
        print("written", flush=True)
        time.sleep(60)
    return rename(self, target)

rename, Path.replace = Path.replace, stop
connect(load_environment(Path(sys.argv[1]))).set(route("digits_classifier", 2, 100))
"""


def test_a_writer_killed_before_the_rename_leaves_the_old_route_and_blocks_nobody(
    sandbox: Sandbox, router: EnvoyRouter, tmp_path: Path
) -> None:
    put(router, route(MODEL, 1, 0))
    file = tmp_path / "environment.yaml"
    file.write_text(sandbox.environment.model_dump_json())
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_BEFORE_RENAME, str(file)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert (sandbox.directory / ".rds.json.new").exists()
    assert router.read(MODEL) == route(MODEL, 1, 0)
    assert sandbox.get().body == "blue"
    put(router, route(MODEL, 2, 100))
    assert sandbox.get().body == "green"
    assert not list(sandbox.directory.glob("*.new")) + list(sandbox.directory.glob(".*.new"))


def test_a_change_of_another_model_does_not_unconfirm(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 3, 10))
    put(router, route("sentiment", 1, 50))
    router.confirm(route(MODEL, 3, 10), timeout_s=1)
    assert sandbox.get("/v2/models/sentiment/ready").status == 200


def test_what_envoy_rejects_is_not_confirmed_and_serves_nobody(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 1, 0))
    path = sandbox.directory / "rds.json"
    table = json.loads(path.read_text())["resources"][0]
    table["virtual_hosts"][0]["routes"][0]["match"] = {"safe_regex": {"regex": "(("}}
    table["metadata"]["filter_metadata"]["model_release"][MODEL] = route(MODEL, 2, 100).to_dict()
    fresh = path.with_suffix(".bad")
    fresh.write_text(json.dumps(response([table])))
    fresh.replace(path)
    with pytest.raises(RouteNotConfirmed, match=r"shows epoch 1 .* instead of epoch 2 .* rejected 1 update"):
        router.confirm(route(MODEL, 2, 100), timeout_s=1)
    assert sandbox.get().body == "blue"


def test_a_route_is_written_and_not_confirmed_while_envoy_is_down(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 1, 100))
    sandbox.stop()
    back = route(MODEL, 2, 0)
    router.set(back)
    with pytest.raises(RouterUnavailable, match=f"127.0.0.1:{sandbox.admin}"):
        router.confirm(back, timeout_s=1)
    with pytest.raises(RouterUnavailable):
        router.counters(MODEL, "default")
    sandbox.start()
    router.confirm(back, timeout_s=5)
    assert sandbox.get().body == "blue"


def test_counters_of_a_restarted_envoy_are_of_another_generation(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL))
    first, again = (router.counters(MODEL, "default")["blue"].generation for _ in range(2))
    sandbox.stop()
    sandbox.start()
    assert first == again != router.counters(MODEL, "default")["blue"].generation


def test_a_first_route_is_not_written_while_envoy_does_not_know_its_clusters(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    sandbox.stop()
    with pytest.raises(RouterUnavailable):
        router.set(route(MODEL))
    assert router.read(MODEL) is None


@pytest.mark.parametrize("spoil", [lambda text: text[:-40], lambda text: text.replace('"blue": 90', '"blue": 80')])
def test_a_spoiled_route_file_is_named_and_never_overwritten(
    sandbox: Sandbox, router: EnvoyRouter, spoil: Callable[[str], str]
) -> None:
    put(router, route(MODEL))
    path = sandbox.directory / "rds.json"
    path.write_text(spoil(path.read_text()))
    spoiled = path.read_text()
    for attempt in (
        lambda: router.read(MODEL),
        lambda: router.set(route(MODEL, 2)),
        lambda: initialise(sandbox.environment, "127.0.0.1", sandbox.port),
    ):
        with pytest.raises(RouteUnreadable, match=r"rds\.json"):
            attempt()
    assert path.read_text() == spoiled
    assert sandbox.get().status == 200


def test_starting_again_keeps_the_routes(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 5, 100))
    sandbox.stop()
    initialise(sandbox.environment, "127.0.0.1", sandbox.port)
    sandbox.start()
    assert sandbox.get().body == "green"
    assert connect(sandbox.environment).read(MODEL) == route(MODEL, 5, 100)

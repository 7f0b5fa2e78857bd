"""What clients of a real Envoy see, and what its counters hold."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
import pytest

from model_release.environment import Environment
from model_release.traffic.envoy import EnvoyRouter
from model_release.traffic.envoy_resources import NOT_ROUTED
from model_release.traffic.router import Route, no_pins
from tests.contracts.router import NEW, OLD, route, unreleased
from tests.sandbox.envoy.parts import INFER, MODEL, Sandbox, Upstreams, call, eventually, put

PROTOCOLS = ("_http", "_grpc")


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


@pytest.mark.parametrize("path", ["versions/1/infer", f"versions/{OLD}/infer", "versions/1/ready", "versions/1"])
def test_a_request_that_pins_a_version_is_told_so_and_is_no_error_of_an_arm(
    sandbox: Sandbox, router: EnvoyRouter, path: str
) -> None:
    put(router, route(MODEL, canary_percent=50))
    before = router.counters(MODEL, "default")
    answer = sandbox.get(f"/v2/models/{MODEL}/{path}")
    assert (answer.status, answer.body) == (404, no_pins(MODEL))
    assert router.counters(MODEL, "default") == before


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
    for mode, status, arm in (
        ("", 200, ("canary", str(NEW))),
        ("refused", 400, ("canary", str(NEW))),
        ("broken", 500, ("stable", str(OLD))),  # which was asked when the canary had failed
    ):
        answer = sandbox.get(x_mode=mode)
        assert answer.status == status
        assert (answer.headers["x-model-arm"], answer.headers["x-model-version"]) == arm


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
    # Stable answered the two that failed.
    eventually(lambda: router.counters(MODEL, "default")["green"].latency_buckets.get("+Inf") == 6)
    counters = router.counters(MODEL, "default")
    assert (counters["green"].requests, counters["green"].errors) == (8, 2)
    assert counters["blue"].requests == 0
    [(_, by_fleet)] = router.counters_by_router(MODEL, "default").items()
    assert by_fleet["green"].requests == 8
    by_replica = router.counters_by_replica(MODEL, "default")
    assert sum(requests for requests, _ in by_replica["green"].values()) >= 8
    assert (
        2 <= sum(failed for _, failed in by_replica["green"].values()) <= 4
    )  # Envoy's hosts count clients' faults too
    assert sum(requests for requests, _ in by_replica["blue"].values()) == 0
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


DEAD = {"name": "dead", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}
#: Nobody else is there to answer.
ALONE = route(
    MODEL, stable="green", canary=None, weights={"blue": 0, "green": 100}, versions={"blue": None, "green": NEW}
)


def with_green(sandbox: Sandbox, *replicas: object) -> EnvoyRouter:
    """Return a router whose green fleet has these replicas."""
    values = sandbox.environment.model_dump()
    values["pairs"]["default"]["green"] = {"replicas": list(replicas)}
    return EnvoyRouter(Environment.model_validate(values))


def test_a_dead_fleet_is_counted_as_errors_in_both_protocols(sandbox: Sandbox) -> None:
    router = with_green(sandbox, DEAD)
    put(router, ALONE)
    answer = sandbox.get()
    assert (answer.status, answer.headers["x-model-arm"]) == (503, "stable")
    with sandbox.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        call(channel, x_model=MODEL)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    counters = router.counters(MODEL, "default")["green"]
    assert counters.requests == counters.errors >= 2


def test_a_dead_replica_costs_no_client_an_answer_but_is_counted(sandbox: Sandbox, upstreams: Upstreams) -> None:
    router = with_green(sandbox, upstreams.pairs["green"]["replicas"][0], DEAD)
    put(router, ALONE)
    with sandbox.channel() as channel:
        for _ in range(10):
            assert sandbox.get().body == "green"
            assert call(channel, x_model=MODEL)[0] == "green"
    counters = router.counters(MODEL, "default")["green"]
    assert counters.errors >= 5
    assert counters.requests == 20 + counters.errors


def test_a_replica_that_lost_the_model_costs_no_client_an_answer_but_is_counted(
    sandbox: Sandbox, upstreams: Upstreams
) -> None:
    router = with_green(sandbox, upstreams.pairs["green"]["replicas"][0], upstreams.lost)
    put(router, ALONE)
    for _ in range(10):
        assert sandbox.get().body == "green"
    counters = router.counters(MODEL, "default")["green"]
    assert 3 <= counters.errors <= 10
    assert counters.requests == 10 + counters.errors
    with sandbox.channel() as channel:
        for _ in range(10):
            assert call(channel, x_model=MODEL)[0] == "green"


def test_a_fleet_that_lost_the_model_is_counted_as_errors(sandbox: Sandbox, upstreams: Upstreams) -> None:
    router = with_green(sandbox, upstreams.lost)
    put(router, ALONE)
    for _ in range(5):
        assert sandbox.get().status == 404
    counters = router.counters(MODEL, "default")["green"]
    assert counters.requests == counters.errors >= 5


@pytest.mark.parametrize("asked", [ALONE, route(MODEL, canary_percent=100)], ids=["alone", "canary"])
def test_a_grpc_client_that_pins_a_version_which_is_not_served_is_no_error_of_the_arm(
    sandbox: Sandbox, upstreams: Upstreams, asked: Route
) -> None:
    green = upstreams.pairs["green"]["replicas"][0]
    router = with_green(sandbox, green, {**green, "name": "second"})
    put(router, asked)
    with sandbox.channel() as channel:
        for _ in range(4):
            with pytest.raises(grpc.RpcError) as refused:
                call(channel, x_model=MODEL, x_mode="not-found")
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert call(channel, x_model=MODEL)[0] == "green"
    counters = router.counters(MODEL, "default")["green"]
    assert (counters.requests, counters.errors) == (5, 0)

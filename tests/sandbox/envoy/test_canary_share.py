"""The canary's share on a real Envoy: who is in it, who answers what the canary fails to, and what is only mirrored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import pytest

from model_release.environment import Environment
from model_release.traffic.envoy import EnvoyRouter
from tests.contracts.router import NEW, OLD, route
from tests.sandbox.envoy.parts import MODEL, Sandbox, call, eventually, put

USERS = [f"user-{number}" for number in range(200)]
DEAD = {"name": "dead", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}


def on_canary(ask: Callable[[str], str]) -> set[str]:
    return {user for user in USERS if ask(user) == "green"}


def test_users_who_came_to_the_canary_stay_there_as_its_weight_grows_over_both_protocols(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    with sandbox.channel() as channel:

        def by_http(user: str) -> str:
            return sandbox.get(x_user=user).body

        def by_grpc(user: str) -> str:
            return call(channel, x_model=MODEL, x_user=user)[0]

        before: set[str] = set()
        sizes = {}
        for epoch, percent in enumerate((10, 50, 100), start=1):
            put(router, route(MODEL, epoch, percent, sticky_header="x-user"))
            now = on_canary(by_http)
            assert now == on_canary(by_http) == on_canary(by_grpc)
            assert before <= now, "somebody went back to stable"
            before, sizes[percent] = now, len(now)
            if percent == 10:
                first = now
        # Five standard deviations of 200 users.
        assert abs(sizes[10] - 20) <= 21
        assert abs(sizes[50] - 100) <= 35
        assert sizes[100] == len(USERS)

        put(router, route(MODEL, 4, 10, sticky_header="x-user", versions={"blue": OLD, "green": NEW + 1}))
        assert on_canary(by_http) != first, "the same users come first in every release"


@pytest.mark.parametrize("nobody", [{}, {"x_user": ""}, {"x_user": " "}], ids=["none", "empty", "a space"])
def test_requests_without_the_sticky_header_or_a_value_in_it_go_by_chance(
    sandbox: Sandbox, router: EnvoyRouter, nobody: dict[str, str]
) -> None:
    put(router, route(MODEL, canary_percent=50, sticky_header="x-user"))
    assert {sandbox.get(**nobody).body for _ in range(40)} == {"blue", "green"}
    with sandbox.channel() as channel:
        assert {call(channel, x_model=MODEL, **nobody)[0] for _ in range(40)} == {"blue", "green"}


def counts(router: EnvoyRouter, fleet: str) -> tuple[int, int, int]:
    arm = router.counters(MODEL, "default")[fleet]
    return arm.requests, arm.errors, arm.latency_buckets.get("+Inf", 0)


@pytest.mark.parametrize("fault", ["dead", "green:broken", "green:hang"])
def test_what_the_canary_fails_to_answer_is_answered_by_stable_and_counted_against_the_canary(
    sandbox: Sandbox, router: EnvoyRouter, fault: str
) -> None:
    mode = "" if fault == "dead" else fault
    if fault == "dead":
        values = sandbox.environment.model_dump()
        values["pairs"]["default"]["green"] = {"replicas": [DEAD]}
        router = EnvoyRouter(Environment.model_validate(values))
    put(router, route(MODEL, canary_percent=100, try_timeout_s=0.3))
    with sandbox.channel() as channel:
        for _ in range(3):
            answer = sandbox.get(x_mode=mode)
            assert (answer.status, answer.body) == (200, "blue")
            assert (answer.headers["x-model-arm"], answer.headers["x-model-version"]) == ("stable", str(OLD))
            assert "x-model-failed" not in answer.headers
            body, headers = call(channel, x_model=MODEL, x_mode=mode)
            assert (body, headers["x-model-arm"], headers["x-model-version"]) == ("blue", "stable", str(OLD))
            assert "x-model-failed" not in headers
    eventually(lambda: counts(router, "green")[:2] == (6, 6))
    assert counts(router, "blue")[:2] == (0, 0), "they are no requests of stable's"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_only_what_the_canary_answers_itself_is_timed_as_its_own(
    sandbox: Sandbox, router: EnvoyRouter, protocol: str
) -> None:
    """
    A failed try and stable's answer after it, or stable's failure, would make a canary that is as fast seem slow.

    A try that had all its time was slower than any.
    """
    put(router, route(MODEL, canary_percent=100, try_timeout_s=0.3))
    with sandbox.channel() as channel:
        for mode in ("green:broken", "broken", "green:hang", "green:refused", "", "", ""):
            if protocol == "http":
                sandbox.get(x_mode=mode)
            else:
                with contextlib.suppress(grpc.RpcError):
                    call(channel, x_model=MODEL, x_mode=mode)
    eventually(lambda: counts(router, "green")[2] == 5)
    # Envoy merges all that it timed at once, so nothing of the earlier requests is still to come.
    assert counts(router, "green") == (7, 3, 5)
    arm = router.counters(MODEL, "default")["green"]
    assert max(count for bound, count in arm.latency_buckets.items() if bound != "+Inf") == 4


def test_what_is_the_clients_own_fault_is_not_asked_of_stable(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=100))
    answer = sandbox.get(x_mode="green:refused")
    assert (answer.status, answer.body, answer.headers["x-model-arm"]) == (400, "green", "canary")
    with sandbox.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        call(channel, x_model=MODEL, x_mode="green:refused")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert counts(router, "green")[:2] == (2, 0)


def test_a_large_request_too_is_kept_until_it_is_answered(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=100))
    assert sandbox.get(x_mode="green:broken", body=bytes(8 * 2**20)).body == "blue"


def test_stable_asks_nobody_else_when_it_fails(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=0, try_timeout_s=0.3))
    assert (sandbox.get(x_mode="blue:broken").status, sandbox.get(x_mode="blue:hang").status) == (500, 200)
    assert counts(router, "blue")[:2] == (2, 1)


def mirrored(router: EnvoyRouter, fleet: str) -> tuple[int, int]:
    arm = router.counters(MODEL, "default")[fleet].mirrored
    return arm.requests, arm.errors


@pytest.mark.parametrize(
    ("canary_percent", "at_work", "shadow"), [(0, "blue", "green"), (100, "green", "blue")], ids=["shadow", "control"]
)
def test_mirrored_requests_are_counted_by_themselves_and_no_client_sees_their_answers(
    sandbox: Sandbox, router: EnvoyRouter, canary_percent: int, at_work: str, shadow: str
) -> None:
    asked: Mapping[str, Any] = {"mirrored": {shadow: 100}, "try_timeout_s": 3}
    put(router, route(MODEL, canary_percent=canary_percent, **asked))
    with sandbox.channel() as channel:
        for mode in ("", f"{shadow}:broken", f"{shadow}:stuck", f"{shadow}:refused"):
            assert (sandbox.get(x_mode=mode).status, sandbox.get(x_mode=mode).body) == (200, at_work)
            assert call(channel, x_model=MODEL, x_mode=mode)[0] == at_work
    eventually(lambda: mirrored(router, shadow) == (12, 6))
    assert counts(router, at_work)[:2] == (12, 0)
    assert counts(router, shadow)[:2] == (0, 0)
    # Envoy merges what it timed every few seconds.
    eventually(lambda: router.counters(MODEL, "default")[shadow].mirrored.latency_buckets["+Inf"] == 12)
    arm = router.counters(MODEL, "default")[shadow].mirrored
    assert max(count for bound, count in arm.latency_buckets.items() if bound != "+Inf") == 9, (
        "what is stuck has no end"
    )

    put(router, route(MODEL, 2, canary_percent=canary_percent, try_timeout_s=0.3))
    sandbox.get()
    assert mirrored(router, shadow) == (12, 6), "it is sent nothing more"


def test_a_share_of_the_requests_is_mirrored(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, canary_percent=0, mirrored={"green": 20}))
    for _ in range(200):
        sandbox.get()
    # Five standard deviations of 200 requests.
    eventually(lambda: 12 <= mirrored(router, "green")[0] <= 68)


def test_a_fleet_without_any_address_hides_behind_no_good_answers(sandbox: Sandbox) -> None:
    """As on Kubernetes, where the name of a fleet without a ready pod has no address."""
    values = sandbox.environment.model_dump()
    nowhere = {"name": "nowhere", "http": "nowhere.invalid:1", "grpc": "nowhere.invalid:1", "metrics": "127.0.0.1:1"}
    values["pairs"]["default"]["green"] = {"replicas": [nowhere]}
    router = EnvoyRouter(Environment.model_validate(values))
    put(router, route(MODEL, canary_percent=100))
    with sandbox.channel() as channel:
        answer = sandbox.get()
        assert (answer.status, answer.body, answer.headers["x-model-arm"]) == (200, "blue", "stable")
        assert call(channel, x_model=MODEL)[0] == "blue"
    assert counts(router, "green")[:2] == (2, 2)

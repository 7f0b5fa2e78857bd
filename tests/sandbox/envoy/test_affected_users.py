"""A real Envoy's log of affected users: who is, is told by user and arm, also where no client saw it."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from model_release.environment import Environment
from model_release.errors import RouterUnavailable
from model_release.traffic.envoy import EnvoyRouter, _replace
from model_release.traffic.router import Slow, SlowBound
from tests.contracts.router import NEW, route
from tests.sandbox.envoy.parts import MODEL, Sandbox, call, eventually, put

NAMES = [f"user {number}" for number in range(40)]
PERCENT = 50
TRIED_FOR_S = 2
ELSEWHERE = {"dead": "127.0.0.1:1", "nowhere": "nowhere.invalid:1"}


def share(router: EnvoyRouter, **changes: Any) -> None:
    put(
        router,
        route(MODEL, canary_percent=PERCENT, **{"sticky_header": "x-user", "try_timeout_s": TRIED_FOR_S, **changes}),
    )


def log_of(sandbox: Sandbox) -> Path:
    log = sandbox.environment.router.user_log
    assert log is not None
    return log.path


class Readings:
    """What the log tells since the reading before, once Envoy has written it."""

    def __init__(self, router: EnvoyRouter) -> None:
        self._router, self.upto = router, dict[str, Any]()
        self.now()
        self.upto = self._read

    def now(self) -> tuple[int, int]:
        """Who failed for the first time on canary and stable."""
        found = self._router.affected_users(MODEL, NEW, PERCENT, self.upto)
        assert found is not None
        self._read = dict(found.upto)
        return found.failed.canary[0], found.failed.stable[0]

    def come_to(self, canary: int, stable: int) -> None:
        eventually(lambda: sum(self.now()) >= canary + stable)
        assert self.now() == (canary, stable)
        self.upto = self._read


def arms(sandbox: Sandbox) -> dict[str, list[str]]:
    """Which users are whose."""
    found: dict[str, list[str]] = {"canary": [], "stable": []}
    for name in NAMES:
        found[sandbox.get(x_user=name).headers["x-model-arm"]].append(name)
    return found


def ask_all(sandbox: Sandbox, mode: str, names: list[str] = NAMES) -> list[int]:
    return [sandbox.get(x_user=name, x_mode=mode).status for name in names]


def test_whoever_an_arm_fails_is_told_once_also_where_stable_answered_for_it(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    share(router)
    told, whose = Readings(router), arms(sandbox)
    assert min(map(len, whose.values())) >= 8
    assert set(ask_all(sandbox, "green:broken")) == {200}  # no client sees it
    told.come_to(len(whose["canary"]), 0)
    assert set(ask_all(sandbox, "broken")) == {500}
    told.come_to(0, len(whose["stable"]))


def test_an_answer_that_is_too_late_is_a_failure_of_its_user(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told, whose = Readings(router), arms(sandbox)
    assert ask_all(sandbox, "green:stuck", whose["canary"][:2]) == [200, 200]
    told.come_to(2, 0)


def test_calls_over_grpc_are_told_by_their_status(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told, whose = Readings(router), arms(sandbox)
    with sandbox.channel() as channel:
        for name in NAMES:
            for mode in ("refused", "not-found"):  # the client's own fault, say both arms
                with pytest.raises(grpc.RpcError):
                    call(channel, x_model=MODEL, x_user=name, x_mode=mode)
        for name in NAMES:
            assert call(channel, x_model=MODEL, x_user=name, x_mode="green:broken")[0] == "blue"
        told.come_to(len(whose["canary"]), 0)
        for name in NAMES:
            with pytest.raises(grpc.RpcError, match="INTERNAL"):
                call(channel, x_model=MODEL, x_user=name, x_mode="broken")
        told.come_to(0, len(whose["stable"]))


def test_good_answers_clients_faults_and_forced_requests_are_not_told(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told = Readings(router)
    assert set(ask_all(sandbox, "")) == {200}
    assert set(ask_all(sandbox, "refused")) == {400}
    sandbox.get(x_user="forced", x_mode="broken", x_model_force_arm="canary")
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    assert sum(told.now()) == 1
    assert log_of(sandbox).read_text().count("\n") == 1


@pytest.mark.parametrize("arm", ["canary", "stable"])
def test_no_client_can_say_whose_its_failures_are(sandbox: Sandbox, router: EnvoyRouter, arm: str) -> None:
    share(router)
    put(router, route("other_model", canary_percent=50))
    told, lie = Readings(router), f"{arm} {MODEL} {NEW} {PERCENT} nobody"
    for path in ("/nothing", f"/v2/models/{MODEL}/versions/1/infer", "/v2/models/other_model/infer"):
        assert sandbox.get(path, x_mode="broken", x_model_share=lie).status >= 404
    assert sandbox.get(x_mode="broken", x_model_force_arm="canary", x_model_share=lie).status == 500
    assert sandbox.get(x_mode="broken", x_user="the last", x_model_share=lie).status == 500
    eventually(lambda: sum(told.now()) > 0)
    assert sum(told.now()) == 1
    assert log_of(sandbox).read_text().count("\n") == 1


@pytest.mark.parametrize("nobody", [{}, {"x_user": ""}], ids=["none", "empty"])
def test_requests_without_the_header_are_each_of_somebody_else(
    sandbox: Sandbox, router: EnvoyRouter, nobody: dict[str, str]
) -> None:
    share(router)
    told = Readings(router)
    for _ in range(12):
        sandbox.get(x_mode="broken", **nobody)
    eventually(lambda: sum(told.now()) == 12)


def test_a_user_named_like_a_canary_has_no_good_answer_of_stables_logged(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told = Readings(router)
    names = [f"a canary {number}" for number in range(40)]
    assert {sandbox.get(x_user=name).headers["x-model-arm"] for name in names} == {"canary", "stable"}
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    assert log_of(sandbox).read_text().count("\n") == 1


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_canary_of_which_nothing_is_reached_fails_each_of_its_users(sandbox: Sandbox, place: str) -> None:
    values = sandbox.environment.model_dump()
    replica = {"name": place, "http": ELSEWHERE[place], "grpc": ELSEWHERE[place], "metrics": "127.0.0.1:1"}
    values["pairs"]["default"]["green"] = {"replicas": [replica]}
    router = EnvoyRouter(Environment.model_validate(values))
    share(router)
    told = Readings(router)
    assert len(arms(sandbox)["stable"]) == len(NAMES)
    eventually(lambda: told.now()[0] >= 8)
    assert told.now()[1] == 0


def test_nothing_is_told_where_arms_are_not_sticky_or_not_two(sandbox: Sandbox, router: EnvoyRouter) -> None:
    for changes in ({"sticky_header": None}, {"weights": {"blue": 0, "green": 100}}):
        share(router, **changes)
        assert set(ask_all(sandbox, "broken", NAMES[:4])) == {500}
    share(router)
    told = Readings(router)
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    assert log_of(sandbox).read_text().count("\n") == 1


def test_a_log_is_rotated_under_a_release_without_a_user_being_lost(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told, whose = Readings(router), arms(sandbox)
    ask_all(sandbox, "green:broken", whose["canary"][:2])
    told.come_to(2, 0)
    ask_all(sandbox, "green:broken", whose["canary"][:3])
    log = log_of(sandbox)
    log.rename(f"{log}.1")
    admin = http.client.HTTPConnection("127.0.0.1", sandbox.admin, timeout=5)
    admin.request("POST", "/reopen_logs")
    assert admin.getresponse().status == 200
    admin.close()
    eventually(log.exists)
    ask_all(sandbox, "green:broken", whose["canary"][:4])
    told.come_to(2, 0)


def test_an_envoy_that_does_not_write_the_log_is_found_out_before_a_release(sandbox: Sandbox, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.touch()
    values = sandbox.environment.model_dump()
    values["router"]["user_log"] = {"path": elsewhere}
    with pytest.raises(
        RouterUnavailable, match=r"affected users at .*elsewhere.log as this version reads them; start it with"
    ):
        EnvoyRouter(Environment.model_validate(values)).affected_users(MODEL, NEW, PERCENT, {})


def slow(router: EnvoyRouter, told: Readings, bound_ms: float, from_s: float = 0.0) -> tuple[int, int]:
    """Who waited too long for the first time on canary and stable since the readings began."""
    asked = Slow((SlowBound(bound_ms, bound_ms),), from_s, TRIED_FOR_S)
    found = router.affected_users(MODEL, NEW, PERCENT, told.upto, asked)
    assert found is not None
    return found.slow[0].canary[0], found.slow[0].stable[0]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_whoever_waits_too_long_for_an_arms_answer_is_told(
    sandbox: Sandbox, router: EnvoyRouter, protocol: str
) -> None:
    share(router, slow_ms=SlowBound(400.0, 400.0))
    told, whose = Readings(router), arms(sandbox)
    waiting = [*whose["canary"][:3], *whose["stable"][:2]]
    with sandbox.channel() as channel:
        for name in [*NAMES, *waiting]:
            mode = "hang" if name in waiting else ""
            if protocol == "http":
                assert sandbox.get(x_user=name, x_mode=mode, x_model_slow="0s").status == 200
            else:
                call(channel, x_model=MODEL, x_user=name, x_mode=mode)
    eventually(lambda: slow(router, told, 400) == (3, 2))
    assert told.now() == (0, 0)
    assert slow(router, told, 400, time.time() + 60) == slow(router, told, 5000) == (0, 0)


def test_of_what_is_slow_often_a_sample_is_told(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router, slow_ms=SlowBound(5000.0, 5000.0), often_ms=SlowBound(0.001, 0.001))
    told = Readings(router)
    for _ in range(10):
        assert set(ask_all(sandbox, "")) == {200}
    eventually(lambda: sum(slow(router, told, 0.001)) > 0)
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    # Five standard deviations of a quarter of 400 requests, and the last.
    assert 57 <= log_of(sandbox).read_text().count("\n") <= 145


def test_the_canary_may_be_slower_before_it_is_told_of(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router, slow_ms=SlowBound(5000.0, 400.0))
    told, whose = Readings(router), arms(sandbox)
    assert set(ask_all(sandbox, "hang", [*whose["canary"][:3], *whose["stable"][:2]])) == {200}
    eventually(lambda: slow(router, told, 400) == (0, 2))
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    assert slow(router, told, 400) == (0, 2)


@pytest.mark.parametrize("mode", ["green:broken blue:hang", "green:stuck"], ids=["at once", "too late"])
def test_what_stable_answers_in_the_canarys_place_is_slow_only_where_it_had_its_time(
    sandbox: Sandbox, router: EnvoyRouter, mode: str
) -> None:
    share(router, slow_ms=SlowBound(400.0, 400.0))
    told, whose = Readings(router), arms(sandbox)
    assert ask_all(sandbox, mode, whose["canary"][:2]) == [200, 200]
    assert ask_all(sandbox, "hang", whose["stable"][:1]) == [200]
    eventually(lambda: slow(router, told, 400) == (2 if mode == "green:stuck" else 0, 1))
    assert told.now() == (2, 0)


def test_a_client_that_gives_up_has_waited_too_long(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router, slow_ms=SlowBound(300.0, 300.0))
    told, whose = Readings(router), arms(sandbox)
    for arm in ("canary", "stable"):
        with pytest.raises(TimeoutError):
            sandbox.get(x_user=whose[arm][0], x_mode="stuck", timeout_s=0.6)
        with pytest.raises(TimeoutError):
            sandbox.get(x_user=whose[arm][1], x_mode="stuck", timeout_s=0.1)
    eventually(lambda: slow(router, told, 300) == (1, 1))


def test_without_a_bound_nothing_is_slow_whatever_a_client_says(sandbox: Sandbox, router: EnvoyRouter) -> None:
    share(router)
    told = Readings(router)
    assert sandbox.get(x_user=NAMES[0], x_mode="hang", x_model_slow="0.001s").status == 200
    ask_all(sandbox, "broken", ["the last"])
    eventually(lambda: sum(told.now()) > 0)
    assert slow(router, told, 1) == (0, 0)
    assert log_of(sandbox).read_text().count("\n") == 1


def test_an_envoy_with_the_log_of_an_earlier_version_is_found_out_too(sandbox: Sandbox, router: EnvoyRouter) -> None:
    """Its listener is the one that `initialise` wrote then."""
    router.affected_users(MODEL, NEW, PERCENT, {})
    listeners = json.loads((sandbox.directory / "lds.json").read_text())["resources"]
    manager = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    written = manager["access_log"][0]["filter"]["or_filter"]["filters"][0]["extension_filter"]["typed_config"]
    written["expression"] = written["expression"].replace("request.duration > duration(", "duration('1s') > duration(")
    _replace(sandbox.directory / "lds.json", listeners)

    def is_found_out() -> bool:
        try:
            router.affected_users(MODEL, NEW, PERCENT, {})
        except RouterUnavailable as error:
            return "start it with the one" in str(error)
        return False

    eventually(is_found_out)

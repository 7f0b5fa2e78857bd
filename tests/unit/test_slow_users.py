"""Beyond which bounds a request is slow for its user: fixed once a release, by what stable did before."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import ValidationError

from model_release.errors import RouteNotConfirmed, RouterUnavailable
from model_release.gates.looks import Arm, Look
from model_release.identity import Mode
from model_release.ledger.state import Placement, Running, State, WeightRecord, Weights
from model_release.spec import ErrorRateGate, LatencyGate
from model_release.steps import slow_users
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import USERS, Route, SlowBound
from tests.contracts.router import route

if TYPE_CHECKING:
    from model_release.steps.context import Step

ERRORS = ErrorRateGate(name="errors", kind="error_rate")
LATENCY = LatencyGate(name="latency", kind="latency", slower_than=1.5)
USUAL = {"20": 2250, "30": 2300, "40": 2880, "60": 2970, "80": 2980, "90": 2990, "+Inf": 3000}
OFTEN, RARE = (30, 20), [(60, 40), (90, 60)]
BOUNDS = (OFTEN, RARE)
SEVEN = SlowBound(8.0, 7.0)


STABLE, CANARY = (Placement(fleet=fleet, version=n, digest="d") for n, fleet in ((1, "blue"), (2, "green")))


class Judged:
    """A release before a stage, and what is noted in it."""

    def __init__(
        self,
        *gates: Any,
        before: dict[str, int] | None = None,
        in_ten: dict[str, int] | None = None,
        able: bool = True,
        header: str | None = "x-user",
        slow_ms: Sequence[SlowBound] = (),
        green: int = 10,
    ) -> None:
        self.model = "digits"
        self.running = Running.model_construct(
            mode=Mode.NORMAL, first_release=False, stages=[0, 10, 50, 100], slow_ms=list(slow_ms)
        )
        self.before = [] if before is None else [of_stable(before, 0)]
        self.in_ten = in_ten
        self.looks = SimpleNamespace(read=lambda stage: (self._looks_of(stage), "etag"))
        canary = SimpleNamespace(sticky_header=header, gates=list(gates))
        self.spec = SimpleNamespace(canary=canary, serving=SimpleNamespace(fleet_pair="default"))
        self.router = Telling() if able else MemoryRouter()
        weights = WeightRecord(intent=Weights(blue=100 - green, green=green))
        self.state = State(model="digits", epoch=1, stable=STABLE, canary=CANARY, weights=weights)
        self.claim = SimpleNamespace(check=lambda: self.state.model_copy(update={"release": self.running}))

    def _looks_of(self, stage: int) -> Any:
        told = self.in_ten if stage == 10 else None
        return None if told is None else SimpleNamespace(looks=[of_stable(told, 10).to_dict()])

    def update_running(self, **changes: Any) -> None:
        self.running = self.running.model_copy(update=changes)

    def noted(self, monkeypatch: pytest.MonkeyPatch, stage: int = 10) -> tuple[SlowBound | None, list[SlowBound]]:
        monkeypatch.setattr(slow_users, "learned", lambda _: self.before)
        slow_users.fix_what_is_slow(cast("Step", self), stage)
        return self.running.often_ms, self.running.slow_ms

    def looked_at(self, monkeypatch: pytest.MonkeyPatch, stage: int = 10) -> list[Route]:
        """Look twice at a stage whose route says nothing of slow users; returns the routes that are set."""
        monkeypatch.setattr(slow_users, "learned", lambda _: self.before)
        applied: list[Route] = []
        held = route("digits", canary_percent=10, sticky_header="x-user")
        self.router.set(held)

        def apply(_: Any, wanted: Route) -> None:
            applied.append(wanted)
            self.router.set(wanted)

        monkeypatch.setattr(slow_users, "apply_route", apply)
        monkeypatch.setattr(slow_users, "route_of", self._route_of)
        for _ in range(2):
            slow_users.have_slow_users_told(cast("Step", self), stage)
        return applied

    def _route_of(self, state: State, _: Any, *, canary_percent: int) -> Route:
        assert state.release is not None
        slow_ms, often_ms = min(state.release.slow_ms, default=None), state.release.often_ms
        said = {"sticky_header": "x-user", "slow_ms": slow_ms, "often_ms": often_ms}
        return route("digits", canary_percent=canary_percent, **said)


class Telling(MemoryRouter):
    capabilities = frozenset({USERS})


def of_stable(buckets: dict[str, int], stage: int) -> Look:
    return Look(1.0, stage, stable=Arm(buckets["+Inf"], latency_buckets=buckets))


def test_it_is_stables_p75_p95_and_p99_of_the_looks_before_and_for_the_canary_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Judged(ERRORS, LATENCY, before=USUAL).noted(monkeypatch) == BOUNDS


def test_what_the_stage_before_showed_counts_where_nothing_else_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {bound: count // 100 for bound, count in USUAL.items()}
    assert Judged(LATENCY, before=few).noted(monkeypatch) == (None, [])
    assert Judged(LATENCY, before=few, in_ten=USUAL).noted(monkeypatch, 50) == BOUNDS


def test_a_look_that_knows_enough_of_stable_has_the_router_tell_of_slow_users_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Judged(LATENCY).looked_at(monkeypatch) == []
    [wanted] = Judged(LATENCY, in_ten=USUAL).looked_at(monkeypatch)
    assert (wanted.slow_ms, wanted.often_ms, wanted.weights["green"]) == (RARE[0], OFTEN, 10)
    # A shift or a look may have ended between the ledger and the router.
    [wanted] = Judged(LATENCY, slow_ms=[SEVEN]).looked_at(monkeypatch)
    assert wanted.slow_ms == SEVEN
    assert Judged(LATENCY, in_ten=USUAL, green=0).looked_at(monkeypatch) == []  # withdrawn
    assert Judged(LATENCY, in_ten=USUAL, header=None).looked_at(monkeypatch) == []


def test_a_ledger_of_before_arms_had_bounds_of_their_own_is_read_and_a_broken_one_is_not() -> None:
    running = {
        "run_id": "r",
        "clear_number": 1,
        "version": 1,
        "kind": "build",
        "spec_digest": "d",
        "checkpoint": "",
        "fleet": "green",
        "first_release": False,
        "stages": [10],
        "started_at": "2026-01-01T00:00:00Z",
    }
    found = Running.model_validate({**running, "slow_ms": [54.0, [9, 8]], "often_ms": 27})
    assert found.user_bounds_ms == (SlowBound(27, 27), SlowBound(54, 54), SlowBound(9, 8))
    assert Running.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError):
        Running.model_validate({**running, "slow_ms": [None]})


@pytest.mark.parametrize("fails", ["read", "apply"])
def test_a_router_that_cannot_be_asked_now_does_not_end_the_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    judged = Judged(LATENCY, slow_ms=[SEVEN])
    judged.router.set(route("digits", canary_percent=10, sticky_header="x-user"))

    def fail(*_: Any) -> None:
        raise RouterUnavailable("rds.json", "no such file") if fails == "read" else RouteNotConfirmed("digits", "down")

    monkeypatch.setattr(slow_users, "route_of", judged._route_of)
    monkeypatch.setattr(slow_users, "apply_route", fail)
    if fails == "read":
        monkeypatch.setattr(judged.router, "read", fail)
    slow_users.have_slow_users_told(cast("Step", judged), 10)
    assert "not asked to tell of slow users" in caplog.text


def test_a_gate_in_dry_run_chooses_nothing_for_one_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    lax = LATENCY.model_copy(update={"dry_run": True, "slower_than": 9.0})
    assert Judged(lax, LATENCY, before=USUAL).noted(monkeypatch) == BOUNDS
    assert Judged(lax, before=USUAL).noted(monkeypatch) == ((180, 20), [(360, 40), (540, 60)])


def test_a_gates_own_bounds_are_slow_for_users_too(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LATENCY.model_copy(update={"bounds_ms": [500.0]})
    assert Judged(own, before=USUAL).noted(monkeypatch) == (OFTEN, [*RARE, (135, 90)])
    reported = own.model_copy(update={"dry_run": True})
    assert Judged(reported, LATENCY, before=USUAL).noted(monkeypatch) == BOUNDS


def test_what_was_fixed_stays_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Judged(LATENCY, before=USUAL, slow_ms=[SEVEN]).noted(monkeypatch, 50) == (None, [SEVEN])


@pytest.mark.parametrize(
    ("gates", "how", "stage"),
    [
        ([ERRORS], {}, 10),
        ([LATENCY], {}, 0),
        ([LATENCY], {}, 100),
        ([LATENCY], {"able": False}, 10),
        ([LATENCY], {"header": None}, 10),
    ],
    ids=["no gate of latency", "shadow", "all of the traffic", "no log", "not sticky"],
)
def test_nothing_is_slow_where_no_users_are_told(
    monkeypatch: pytest.MonkeyPatch, gates: list[Any], how: dict[str, Any], stage: int
) -> None:
    assert Judged(*gates, before=USUAL, **how).noted(monkeypatch, stage) == (None, [])

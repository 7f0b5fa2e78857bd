"""Beyond which bounds a request is slow for its user: fixed once a release, by what stable did before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from model_release.gates.looks import Arm, Look
from model_release.ledger.state import Placement
from model_release.spec import ErrorRateGate, LatencyGate
from model_release.steps import shift
from model_release.traffic.router import USERS, ArmCounters

ERRORS = ErrorRateGate(name="errors", kind="error_rate")
LATENCY = LatencyGate(name="latency", kind="latency", slower_than=1.5)
USUAL = {"20": 150, "40": 290, "60": 298, "+Inf": 300}
ALL_DAY = {"100": 500, "200": 990, "+Inf": 1000}


def noted(
    monkeypatch: pytest.MonkeyPatch,
    *gates: Any,
    stage: int = 10,
    before: dict[str, int] | None = None,
    able: bool = True,
    slow_ms: float | None = None,
    header: str | None = "x-user",
) -> list[float]:
    running = SimpleNamespace(judged_alone=False, slow_ms=[slow_ms] if slow_ms else [])
    stable = Placement(fleet="blue", version=1, digest="d")
    step: Any = SimpleNamespace(
        model="digits",
        spec=SimpleNamespace(
            canary=SimpleNamespace(sticky_header=header, gates=list(gates)),
            serving=SimpleNamespace(fleet_pair="default"),
        ),
        running=running,
        claim=SimpleNamespace(check=lambda: SimpleNamespace(stable=stable)),
        router=SimpleNamespace(
            capabilities=frozenset({USERS} if able else ()),
            counters=lambda *_: {"blue": ArmCounters(1000, 0, ALL_DAY), "green": ArmCounters(0, 0)},
        ),
        update_running=lambda **changes: running.__dict__.update(changes),
    )
    looks = [] if before is None else [Look(1.0, 0, stable=Arm(300, latency_buckets=before))]
    monkeypatch.setattr(shift, "learned", lambda _: looks)
    shift._note_what_is_slow(step, stage)
    return running.slow_ms


def test_it_is_stables_p95_and_p99_of_the_looks_before_or_of_all_that_the_router_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert noted(monkeypatch, ERRORS, LATENCY, before=USUAL) == [40, 60]
    assert noted(monkeypatch, ERRORS, LATENCY, before={"20": 30, "+Inf": 30}) == [200]
    assert noted(monkeypatch, LATENCY) == [200]


def test_bounds_of_the_spec_count_and_a_median_that_is_near_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = LATENCY.model_copy(update={"bounds_ms": [80.0, 100.0]})
    assert noted(monkeypatch, given, before=USUAL) == [120]


def test_what_was_fixed_stays_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted(monkeypatch, LATENCY, before=USUAL, stage=50, slow_ms=7.0) == [7.0]


@pytest.mark.parametrize(
    ("gates", "how"),
    [
        ([ERRORS], {}),
        ([LATENCY], {"stage": 0}),
        ([LATENCY], {"stage": 100}),
        ([LATENCY], {"able": False}),
        ([LATENCY], {"header": None}),
    ],
    ids=["no gate of latency", "shadow", "all of the traffic", "no log", "not sticky"],
)
def test_nothing_is_slow_where_no_users_are_told(
    monkeypatch: pytest.MonkeyPatch, gates: list[Any], how: dict[str, Any]
) -> None:
    assert noted(monkeypatch, *gates, before=USUAL, **how) == []

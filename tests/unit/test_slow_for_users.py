"""Beyond which bounds a request is slow for its user: fixed once a release, by what stable did before."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from model_release.gates.looks import Arm, Look
from model_release.spec import ErrorRateGate, LatencyGate
from model_release.steps import shift
from model_release.traffic.router import USERS

if TYPE_CHECKING:
    from model_release.steps.context import Step

ERRORS = ErrorRateGate(name="errors", kind="error_rate")
LATENCY = LatencyGate(name="latency", kind="latency", slower_than=1.5)
USUAL = {"20": 150, "40": 290, "60": 298, "+Inf": 300}


class Judged:
    """A release before a stage, and what is noted in it."""

    def __init__(
        self,
        *gates: Any,
        before: dict[str, int] | None = None,
        in_ten: dict[str, int] | None = None,
        able: bool = True,
        header: str | None = "x-user",
        slow_ms: Sequence[float] = (),
    ) -> None:
        self.running = SimpleNamespace(
            judged_alone=False, slow_ms=list(slow_ms), often_ms=None, stages=[0, 10, 50, 100]
        )
        self.before = [] if before is None else [of_stable(before, 0)]
        self.looks = SimpleNamespace(read=lambda stage: (self._looks(in_ten if stage == 10 else None), "etag"))
        canary = SimpleNamespace(sticky_header=header, gates=list(gates))
        self.spec = SimpleNamespace(canary=canary)
        self.router = SimpleNamespace(capabilities=frozenset({USERS} if able else ()))

    @staticmethod
    def _looks(buckets: dict[str, int] | None) -> Any:
        return None if buckets is None else SimpleNamespace(looks=[of_stable(buckets, 10).to_dict()])

    def update_running(self, **changes: Any) -> None:
        self.running.__dict__.update(changes)

    def noted(self, monkeypatch: pytest.MonkeyPatch, stage: int = 10) -> tuple[float | None, list[float]]:
        monkeypatch.setattr(shift, "learned", lambda _: self.before)
        shift._note_what_is_slow(cast("Step", self), stage)
        return self.running.often_ms, self.running.slow_ms


def of_stable(buckets: dict[str, int], stage: int) -> Look:
    return Look(1.0, stage, stable=Arm(buckets["+Inf"], latency_buckets=buckets))


def test_it_is_stables_p95_and_p99_of_the_looks_before_and_what_its_median_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Judged(ERRORS, LATENCY, before=USUAL).noted(monkeypatch) == (30, [40, 60])


def test_what_the_stage_before_showed_counts_where_nothing_else_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"20": 15, "40": 29, "60": 30, "+Inf": 30}
    assert Judged(LATENCY, before=few).noted(monkeypatch) == (None, [])
    assert Judged(LATENCY, before=few, in_ten=USUAL).noted(monkeypatch) == (None, [])
    assert Judged(LATENCY, before=few, in_ten=USUAL).noted(monkeypatch, 50) == (30, [40, 60])


def test_a_gate_in_dry_run_chooses_nothing_for_one_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    lax = LATENCY.model_copy(update={"dry_run": True, "slower_than": 9.0})
    assert Judged(lax, LATENCY, before=USUAL).noted(monkeypatch) == (30, [40, 60])
    assert Judged(lax, before=USUAL).noted(monkeypatch) == (None, [180])


def test_what_was_fixed_stays_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Judged(LATENCY, before=USUAL, slow_ms=[7.0]).noted(monkeypatch, 50) == (None, [7.0])


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

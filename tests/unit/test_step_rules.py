"""The rules of the steps that need no server: who may go on, what a hold does, where a rollback goes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from model_release.errors import NoAdvanceVerdict, NothingToRollBackTo
from model_release.gates.judge import Verdict
from model_release.identity import Kind
from model_release.ledger.state import Placement, Promotion, Rejection, Running, State
from model_release.spec import Canary, Tensor
from model_release.steps.abort import target
from model_release.steps.held import with_hold
from model_release.steps.refusals import _tensor_changes
from model_release.steps.shift import require_advance
from model_release.steps.watch import _action

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADVANCE = {"action": "advance"}


def running(verdicts: dict[str, Any], *, deployed: bool = True) -> Running:
    return Running(
        run_id="run-1",
        clear_number=0,
        version=3,
        kind=Kind.BUILD,
        spec_digest="d",
        checkpoint="file:///c",
        fleet="green",
        first_release=False,
        stages=[10, 50, 100],
        started_at=NOW,
        deployed=deployed,
        verdicts=verdicts,
    )


@pytest.mark.parametrize(
    ("verdicts", "stage"),
    [
        ({}, 10),
        ({"10": ADVANCE}, 50),
        ({"10": ADVANCE, "50": ADVANCE}, 100),
        ({"10": ADVANCE, "50": ADVANCE, "100": ADVANCE}, None),
    ],
)
def test_a_stage_opens_after_every_stage_before_was_judged_advance(verdicts: dict[str, Any], stage: int | None) -> None:
    require_advance(running(verdicts), stage)


@pytest.mark.parametrize(
    ("verdicts", "stage"),
    [
        ({}, 50),
        ({"10": {"action": "rollback"}}, 50),
        ({"10": {"action": None, "verdict": "advance"}}, 50),
        ({"50": ADVANCE}, 100),
        ({"10": ADVANCE, "50": ADVANCE}, None),
        ({}, 25),
    ],
)
def test_a_task_marked_success_by_hand_opens_nothing(verdicts: dict[str, Any], stage: int | None) -> None:
    with pytest.raises(NoAdvanceVerdict):
        require_advance(running(verdicts), stage)


def test_a_canary_that_was_not_proved_gets_no_weight() -> None:
    with pytest.raises(NoAdvanceVerdict, match="not deployed"):
        require_advance(running({}, deployed=False), 10)


def verdict(what: str) -> Verdict:
    return Verdict(t=1, stage=10, verdict=what, reason="because", gates=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("on_inconclusive", "age_s", "what", "action"),
    [
        ("hold", 899, "inconclusive", None),
        ("hold", 901, "inconclusive", None),
        ("hold", 900 + 3600, "inconclusive", "rollback"),
        ("rollback", 899, "inconclusive", None),
        ("rollback", 900, "inconclusive", "rollback"),
        ("advance", 900, "inconclusive", "advance"),
        ("hold", 5000, "advance", "advance"),
        ("advance", 5, "rollback", "rollback"),
    ],
)
def test_an_inconclusive_stage_ends_at_its_deadline_as_the_config_says(
    on_inconclusive: str, age_s: float, what: str, action: str | None
) -> None:
    canary = with_hold(Canary(on_inconclusive=on_inconclusive))  # type: ignore[arg-type]

    assert _action(canary, verdict(what), age_s) == action


def test_what_a_person_adds_to_a_hold_is_waited_for_too() -> None:
    canary = with_hold(Canary(), longer_s=100)

    assert _action(canary, verdict("inconclusive"), 900 + 3600 + 99) is None
    assert _action(canary, verdict("inconclusive"), 900 + 3600 + 100) == "rollback"


def promotion(version: int) -> Promotion:
    return Promotion(version=version, digest="d", kind=Kind.BUILD, decision=version, at=NOW, run_id="r")


def placed(version: int, fleet: str) -> Placement:
    return Placement(fleet=fleet, version=version, digest="d")


def rejection(version: int) -> Rejection:
    return Rejection(version=version, reason="bad", at=NOW, run_id="r")


def test_a_rollback_without_a_target_goes_to_the_standby() -> None:
    state = State(model="m", stable=placed(3, "green"), standby=placed(2, "blue"), promotions=[promotion(1)])

    assert target(state) == 2


def test_a_rollback_passes_over_rejected_versions() -> None:
    state = State(
        model="m",
        stable=placed(2, "green"),
        standby=placed(3, "blue"),
        promotions=[promotion(1), promotion(2), promotion(3)],
        rejected=[rejection(3)],
    )

    assert target(state) == 1


def test_a_rollback_with_nothing_before_says_so() -> None:
    with pytest.raises(NothingToRollBackTo):
        target(State(model="m", stable=placed(1, "blue"), promotions=[promotion(1)]))


def tensor(name: str, dtype: str = "float32", shape: list[int | str] | None = None) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape or [3])  # type: ignore[arg-type]


def test_a_contract_breaks_by_what_a_client_would_notice() -> None:
    before = [tensor("a"), tensor("b")]

    assert _tensor_changes("input", before, before, additions_break=True) == []
    assert _tensor_changes("output", before, [*before, tensor("c")], additions_break=False) == []
    assert _tensor_changes("input", before, [*before, tensor("c")], additions_break=True) == ["input 'c' is new"]
    assert _tensor_changes("output", before, [tensor("a")], additions_break=False) == ["output 'b' is gone"]
    assert _tensor_changes("input", [tensor("a")], [tensor("a", "int64", [4])], additions_break=True) == [
        "input 'a' was float32[3], is int64[4]"
    ]

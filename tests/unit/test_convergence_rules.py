"""What counts tell of a replica's life, and what an unproved replica makes of a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from model_release.spec import Canary
from model_release.steps.convergence import held_by
from model_release.triton.convergence import is_same

BEFORE = {"succeeded": 100, "failed": 2, "executed 1": 90, "executed 4": 3}
DOWN = "the Triton replica green-1 did not answer"


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (BEFORE, True),
        ({**BEFORE, "succeeded": 110, "executed 8": 5}, True),
        ({**BEFORE, "succeeded": 99}, False),
        ({**BEFORE, "succeeded": 120, "failed": 0}, False),
        ({"succeeded": 140, "failed": 2, "executed 1": 142}, False),
        ({**BEFORE, "succeeded": 300}, False),
        ({}, False),
    ],
)
def test_a_replica_is_the_same_while_no_count_goes_back_and_they_do_not_double(now: dict[str, int], same: bool) -> None:
    assert is_same(BEFORE, now) == same


def test_a_replica_without_requests_or_without_a_past_is_not_known() -> None:
    idle = {"succeeded": 0, "failed": 0}
    assert not is_same(None, BEFORE)
    assert not is_same(idle, idle)
    assert not is_same(idle, BEFORE)


def decided(verdict: str, action: str | None, reason: str = "gathering: 3 of 60 requests") -> dict[str, Any]:
    return {"verdict": verdict, "action": action, "reason": reason, "gates": []}


def canary(on_inconclusive: str = "hold") -> Canary:
    return Canary.model_validate({"min_bake_s": 10, "max_bake_s": 100, "on_inconclusive": on_inconclusive})


def test_with_every_replica_proved_a_verdict_leads_where_it_leads() -> None:
    advance = decided("advance", "advance", "errors: fine")
    assert held_by(advance, [], canary(), 50) is advance


def test_an_unproved_replica_holds_the_advance_and_is_named() -> None:
    held = held_by(decided("advance", "advance", "errors: fine"), [DOWN], canary(), 50)
    assert (held["verdict"], held["action"]) == ("advance", None)
    assert held["reason"] == f"the advance is held: {DOWN}"


@pytest.mark.parametrize(("rule", "action"), [("hold", "rollback"), ("rollback", "rollback"), ("advance", "advance")])
def test_past_the_bake_an_unproved_replica_ends_the_stage_as_an_inconclusive_one(rule: str, action: str) -> None:
    ended = held_by(decided("advance", "advance"), [DOWN], canary(rule), 100)
    assert (ended["verdict"], ended["action"]) == ("inconclusive", action)
    assert ended["reason"] == f"deadline: 100 s are over; {DOWN}"


@pytest.mark.parametrize("action", [None, "rollback"])
def test_a_verdict_that_does_not_advance_stays_and_names_the_replica_too(action: str | None) -> None:
    told = held_by(decided("inconclusive", action), [DOWN], canary(), 50)
    assert (told["verdict"], told["action"]) == ("inconclusive", action)
    assert told["reason"] == f"gathering: 3 of 60 requests; {DOWN}"

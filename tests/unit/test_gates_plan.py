"""What a stage needs, said before it begins, held against the judge itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from model_release.gates.judge import Judge
from model_release.gates.looks import Arm, Look
from model_release.gates.plan import Present, plan_stage
from model_release.spec import Canary

ERRORS = {"name": "errors", "kind": "error_rate"}


def canary(**changes: Any) -> Canary:
    return Canary.model_validate({"gates": [ERRORS], "warmup_s": 0, **changes})


def advanced_share(asked: Canary, per_s: float, runs: int = 40) -> float:
    """The share of healthy versions at 10 %, failing 0.1 %, that the judge itself lets advance within max_bake_s."""
    rng, advanced = np.random.default_rng(2), 0
    for _ in range(runs):
        judge = Judge(asked, 10, first_release=False, bounds_ms=None)
        for k in range(1, int(asked.max_bake_s / 20) + 1):
            n, other = (int(rng.poisson(20 * per_s * share)) for share in (0.1, 0.9))
            look = Look(20.0 * k, 10, *(Arm(each, int(rng.binomial(each, 0.001))) for each in (n, other)))
            if judge.take(look).verdict == "advance":
                advanced += 1
                break
    return advanced / runs


@pytest.mark.parametrize("per_s", [8, 14])
def test_the_chance_that_is_told_is_the_judges(per_s: float) -> None:
    told = plan_stage(canary(min_requests=1), 10, Present(per_s)).advance_chance
    assert told == pytest.approx(advanced_share(canary(min_requests=1), per_s), abs=0.2)


def test_low_traffic_is_warned_of_with_what_would_suffice_and_that_suffices() -> None:
    plan = plan_stage(canary(max_bake_s=300), 10, Present(20))
    assert plan.warning is not None
    assert "max_bake_s 300" in plan.warning
    longer = float(plan.warning.split("; max_bake_s ")[1].split()[0])
    assert plan_stage(canary(max_bake_s=longer), 10, Present(20)).warning is None


def test_ample_traffic_is_not_warned_of() -> None:
    plan = plan_stage(canary(), 10, Present(500))
    assert plan.warning is None
    assert plan.minutes == 2  # min_bake_s
    assert plan.advance_chance == pytest.approx(1, abs=0.02)


def test_no_traffic_is_said_to_be_none() -> None:
    plan = plan_stage(canary(), 10, Present(0.0))
    assert plan.minutes is None
    assert plan.advance_chance == 0
    assert "no traffic" in str(plan.warning)


def test_without_a_rate_requests_alone_are_told() -> None:
    plan = plan_stage(canary(), 10)
    assert (plan.minutes, plan.detect_minutes, plan.advance_chance, plan.warning) == (None, None, None, None)
    assert plan.requests >= 1000


def test_a_doubling_of_more_errors_is_found_sooner_and_the_judge_finds_it_by_then() -> None:
    few, many = (plan_stage(canary(), 10, Present(200, {"errors": share})) for share in (0.001, 0.02))
    assert few.detect_requests is not None
    assert many.detect_requests is not None
    assert many.detect_requests < few.detect_requests / 10
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        judge = Judge(canary(), 10, first_release=False, bounds_ms=None)
        judge.learn(Look(5.0 * k, 0, stable=Arm(900, int(rng.binomial(900, 0.02)))) for k in range(200))
        looks = 2 * many.detect_requests // 100
        for k in range(1, looks + 1):
            judge.replay(
                [Look(5.0 * k, 10, Arm(100, int(rng.binomial(100, 0.04))), Arm(900, int(rng.binomial(900, 0.02))))]
            )
            if judge.log_evidence >= np.log(100):
                found += 1
                break
    assert found >= 14


def test_every_kind_of_gate_can_be_planned_in_every_kind_of_stage() -> None:
    gates = [
        ERRORS,
        {"name": "latency", "kind": "latency"},
        {"name": "clicks", "kind": "proportion"},
        {"name": "right", "kind": "accuracy"},
        {"name": "same", "kind": "disagreement"},
    ]
    asked = canary(gates=gates)
    for how in ({"first_release": True}, {}, {"control": True}):
        plan = plan_stage(asked, 100, Present(100, samples={"right": 2000, "same": 2000}), **how)
        json.dumps(plan.to_dict(), allow_nan=False)
        assert plan.sentence().startswith("100 %: ")


def test_a_golden_set_that_is_too_small_to_prove_anything_is_said() -> None:
    asked = canary(gates=[{"name": "right", "kind": "accuracy", "margin": 0.02}])
    chances = [plan_stage(asked, 10, Present(200, samples={"right": n})).advance_chance for n in (50, 3000)]
    assert chances[0] == 0
    assert chances[1] is not None
    assert chances[1] > 0.9

"""The gates beyond errors and latency: the users' own counters, samples that both arms answer, users, controls."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from model_release.gates.judge import Judge, Verdict
from model_release.gates.looks import Arm, Look, Paired, Proportion, Stratum
from model_release.gates.paired import Disagreement, Drop
from model_release.gates.stream import judged
from model_release.spec import Canary

EARLY: dict[str, Any] = {"warmup_s": 0, "min_bake_s": 1, "max_bake_s": 900, "min_requests": 1}
CLICKS = {"name": "clicks", "kind": "proportion", "margin": 0.05}
RIGHT = {"name": "right", "kind": "accuracy", "margin": 0.02}
SAME = {"name": "same", "kind": "disagreement", "limit": 0.05, "margin": 0.02}


def canary(*gates: dict[str, Any], **changes: Any) -> Canary:
    return Canary.model_validate({**EARLY, **changes, "gates": list(gates)})


def last(asked: Canary, looks: list[Look], **how: Any) -> Verdict:
    """The verdict that ends a stage, or that of the last look."""
    verdict = None
    for verdict in judged(asked, looks, **how):
        if verdict.verdict != "inconclusive":
            return verdict
    assert verdict is not None
    return verdict


def clicked(t: float, good: int, stable_good: int, n: int = 100, stable_n: int = 900, stage: int = 10) -> Look:
    own, other = Proportion(good, n), Proportion(stable_good, stable_n)
    return Look(t, stage, Arm(200, proportions={"clicks": own}), Arm(1800, proportions={"clicks": other}))


def answered(t: float, plus: int, zero: int, minus: int, gate: str = "right", stage: int = 10) -> Look:
    return Look(t, stage, Arm(100), Arm(900), paired={gate: Paired(plus, zero, minus)})


# --- the users' own counters -----------------------------------------------------------------------


def test_fewer_good_events_go_back_and_say_both_numbers() -> None:
    verdict = last(canary(CLICKS), [clicked(5.0 * k, 40, 720) for k in range(1, 30)])
    assert verdict.verdict == "rollback"
    assert "canary requests" not in verdict.reason
    assert "were not good" in verdict.reason


def test_as_many_good_events_advance() -> None:
    assert last(canary(CLICKS), [clicked(5.0 * k, 80, 720) for k in range(1, 100)]).verdict == "advance"


def test_counters_that_say_nothing_hold_the_advance() -> None:
    silent = [Look(5.0 * k, 10, Arm(500), Arm(4500)) for k in range(1, 20)]
    verdict = last(canary(CLICKS), silent)
    assert verdict.verdict == "inconclusive"
    assert verdict.reason.startswith("gathering: clicks")


def test_a_proportion_without_an_objective_stands_aside_where_there_is_no_stable() -> None:
    errors = {"name": "errors", "kind": "error_rate"}
    verdict = last(
        canary(errors, CLICKS), [clicked(5.0 * k, 0, 0, stage=100) for k in range(1, 99)], first_release=True
    )
    assert verdict.verdict == "advance"
    assert "no objective" in verdict.reason


def test_a_proportion_with_an_objective_is_held_to_it() -> None:
    asked = canary({**CLICKS, "objective": 0.3})
    looks = [clicked(5.0 * k, 40, 0, stable_n=0, stage=100) for k in range(1, 99)]
    assert last(asked, looks, first_release=True).verdict == "rollback"


# --- samples that both arms answer -----------------------------------------------------------------


def test_wrong_answers_with_healthy_traffic_go_back() -> None:
    verdict = last(canary(RIGHT), [answered(5.0 * k, 0, 28, 4) for k in range(1, 60)])
    assert verdict.verdict == "rollback"
    assert "stable alone about" in verdict.reason


def test_answers_as_good_as_stables_advance_and_the_proof_goes_on_in_the_next_stage() -> None:
    looks = [answered(5.0 * k, 1, 62, 1) for k in range(1, 40)]
    more = [Look(200 + 5.0 * k, 50, Arm(500), Arm(500)) for k in range(1, 4)]
    verdicts = list(judged(canary(RIGHT), [*looks, *more]))
    assert verdicts[38].verdict == "advance"
    assert verdicts[-1].verdict == "advance"


def test_other_answers_beyond_the_limit_go_back() -> None:
    looks = [answered(5.0 * k, 2, 12, 2, gate="same") for k in range(1, 30)]
    assert last(canary(SAME), looks).verdict == "rollback"


def test_the_same_answers_advance() -> None:
    looks = [answered(5.0 * k, 0, 16, 0, gate="same") for k in range(1, 60)]
    assert last(canary(SAME), looks).verdict == "advance"


def test_a_first_release_has_nobody_to_agree_with() -> None:
    looks = [Look(5.0 * k, 100, Arm(500)) for k in range(1, 10)]
    assert last(canary(RIGHT, SAME), looks, first_release=True).verdict == "advance"


@pytest.mark.parametrize(("p_plus", "p_minus"), [(0.03, 0.035), (0.0, 0.005), (0.2, 0.205)])
def test_drops_within_what_is_allowed_are_rolled_back_within_alpha(p_plus: float, p_minus: float) -> None:
    rng, alpha = np.random.default_rng(3), 0.05
    back = 0
    for _ in range(400):
        drop = Drop(0.02, allowed=0.005)
        for _ in range(60):
            plus, zero, minus = rng.multinomial(32, [p_plus, 1 - p_plus - p_minus, p_minus]).tolist()
            drop.take(Paired(plus, zero, minus))
            if drop.log_evidence >= -math.log(alpha):
                back += 1
                break
    assert back <= stats.binom.ppf(0.999, 400, alpha)


def test_a_drop_of_the_margin_is_proved_harmless_within_alpha() -> None:
    rng, alpha = np.random.default_rng(4), 0.05
    on = 0
    for _ in range(400):
        drop = Drop(0.02)
        for _ in range(60):
            plus, zero, minus = rng.multinomial(32, [0.03, 0.92, 0.05]).tolist()
            drop.take(Paired(plus, zero, minus))
            if drop.log_proof() >= -math.log(alpha):
                on += 1
                break
    assert on <= stats.binom.ppf(0.999, 400, alpha)


@pytest.mark.parametrize(("share", "log_of"), [(0.05, "log_evidence"), (0.07, "log_proof")])
def test_disagreement_at_its_bounds_errs_within_alpha(share: float, log_of: str) -> None:
    rng, alpha = np.random.default_rng(5), 0.05
    wrong = 0
    for _ in range(400):
        same = Disagreement(0.02, limit=0.05)
        for bad in rng.binomial(32, share, 60).tolist():
            same.take(Paired(0, 32 - bad, bad))
            evidence = same.log_evidence if log_of == "log_evidence" else same.log_proof()
            if evidence >= -math.log(alpha):
                wrong += 1
                break
    assert wrong <= stats.binom.ppf(0.999, 400, alpha)


def test_the_intervals_of_answers_hold_the_estimates_and_narrow() -> None:
    widths = []
    for n in (100, 1000):
        drop = Drop(0.02)
        drop.take(Paired(n // 20, n - n // 10, n // 20))
        low, high = drop.arms(0.05)["difference"]["interval"]
        assert low < 0 < high
        widths.append(high - low)
    assert widths[1] < widths[0]


# --- users, strata, a control at 100 % -------------------------------------------------------------


def user_looks(rng: np.random.Generator, per_user: int = 40) -> list[Look]:
    """600 users on two arms, 2 % of them failed by every request; a user asks `per_user` times in 60 looks."""
    own = rng.random(600) < 0.1
    doomed = rng.random(600) < 0.02
    asked = np.zeros(600, bool)
    looks = []
    for k in range(1, 61):
        asks = rng.poisson(per_user / 60, 600)
        arms = []
        for arm in (own, ~own):
            at_risk = arm & (asks > 0) & ~(asked & doomed)
            requests = int(asks[arm].sum())
            arms.append(
                Arm(
                    requests,
                    int(asks[arm & doomed].sum()),
                    {},
                    {},
                    int(at_risk.sum()),
                    (int((at_risk & doomed).sum()),),
                )
            )
        asked |= asks > 0
        looks.append(Look(5.0 * k, 10, *arms))
    return looks


def rolls_back(asked: Canary, looks: list[Look]) -> bool:
    judge = Judge(asked, 10, first_release=False, bounds_ms=None)
    for look in looks:
        judge.replay([look])
        if judge.log_evidence >= -math.log(asked.alpha_rollback):
            return True
    return False


def test_errors_that_cluster_by_user_are_rolled_back_within_alpha_where_users_are_counted() -> None:
    rng, runs, back, blind = np.random.default_rng(6), 60, 0, 0
    asked = canary({"name": "errors", "kind": "error_rate"}, alpha_rollback=0.05)
    for _ in range(runs):
        looks = user_looks(rng)
        back += rolls_back(asked, looks)
        arms = [[Arm(arm.requests, arm.errors) for arm in (look.canary, look.stable)] for look in looks]
        blind += rolls_back(asked, [Look(look.t, 10, *pair) for look, pair in zip(looks, arms, strict=True)])
    assert back <= stats.binom.ppf(0.999, runs, 0.05)
    assert blind > back  # requests as the unit are the trap


def test_a_canary_that_fails_every_tenth_user_is_found_by_users() -> None:
    looks = [Look(5.0 * k, 10, Arm(100, 30, {}, {}, 30, (3,)), Arm(900, 2, {}, {}, 270, (1,))) for k in range(1, 40)]
    assert last(canary({"name": "errors", "kind": "error_rate"}), looks).verdict == "rollback"


def test_routers_with_clients_of_their_own_are_compared_one_by_one() -> None:
    """Router two sees the canary mostly, and clients who err at any arm: pooled, the canary looks guilty."""
    looks = []
    for k in range(1, 60):
        one = Stratum(Arm(20, 0), Arm(980, 1))
        two = Stratum(Arm(500, 25), Arm(500, 25))
        looks.append(Look(5.0 * k, 10, Arm(520, 25), Arm(1480, 26), strata=(one, two)))
    asked = canary({"name": "errors", "kind": "error_rate", "margin": 0.2})
    assert last(asked, looks).verdict == "advance"
    pooled = [Look(look.t, look.stage, look.canary, look.stable) for look in looks]
    assert "rollback" in {verdict.verdict for verdict in judged(asked, pooled)}


def test_at_100_percent_a_mirrored_control_takes_the_objectives_place() -> None:
    """Both arms fail 3 %, beyond the objective of 1 %: a shared incident, which a control shows to be one."""
    errors = {"name": "errors", "kind": "error_rate", "margin": 0.05}
    alone = [Look(5.0 * k, 100, Arm(1000, 30)) for k in range(1, 60)]
    mirrored = [Look(5.0 * k, 100, Arm(1000, 30), control=Arm(100, 3)) for k in range(1, 60)]
    assert last(canary({**errors, "margin": 0.005}), alone).verdict == "rollback"
    assert last(canary(errors), mirrored).verdict == "advance"


def test_stragglers_after_the_last_shift_are_no_control() -> None:
    looks = [Look(5.0, 100, Arm(1000), Arm(3)), *(Look(5.0 * k, 100, Arm(1000)) for k in range(2, 40))]
    assert last(canary({"name": "errors", "kind": "error_rate"}), looks).verdict == "advance"


# --- all of a verdict ------------------------------------------------------------------------------


def test_every_gate_says_estimate_interval_n_evidence_and_a_sentence() -> None:
    gates = [{"name": "errors", "kind": "error_rate"}, CLICKS, RIGHT, SAME]
    judge = Judge(canary(*gates), 10, first_release=False, bounds_ms=None)
    one = clicked(5.0, 80, 720)
    paired = {"right": Paired(1, 30, 1), "same": Paired(0, 16, 0)}
    verdict = judge.take(Look(5.0, 10, one.canary, one.stable, paired=paired))
    for gate in json.loads(json.dumps(verdict.to_dict()))["gates"]:
        assert {"e_value", "p_value", "margin", "verdict", "sentence", "kind", "dry_run"} <= set(gate)
        assert 0 < gate["p_value"] <= 1
        estimates = [gate[key] for key in ("canary", "difference") if key in gate]
        assert any(each["estimate"] is not None and each["interval"] is not None for each in estimates)
        assert gate["sentence"].startswith(f"{gate['name']}: ")


def test_a_dry_run_reports_and_decides_nothing() -> None:
    gates = ({**CLICKS, "dry_run": True}, {**RIGHT, "dry_run": True}, {"name": "errors", "kind": "error_rate"})
    looks = [
        Look(look.t, 10, look.canary, look.stable, paired={"right": Paired(0, 20, 12)})
        for look in (clicked(5.0 * k, 0, 900) for k in range(1, 60))
    ]
    verdict = last(canary(*gates), looks)
    assert verdict.verdict == "advance"
    assert [gate["verdict"] for gate in verdict.gates] == ["rollback", "rollback", "advance"]


def test_a_look_with_every_field_survives_its_json_line() -> None:
    arm = Arm(10, 1, {"5.5": 9, "+Inf": 10}, {"clicks": Proportion(3, 4)}, 5, (1, 0))
    look = Look(5.0, 10, arm, arm, "", (arm, arm), arm, {"right": Paired(1, 2, 3)}, (Stratum(arm, arm),))
    assert Look.from_dict(json.loads(json.dumps(look.to_dict()))) == look

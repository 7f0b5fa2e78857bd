"""The judge of a stage: what advances, what goes back, and what it says while it waits."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from model_release.gates.judge import Judge, Verdict
from model_release.gates.looks import Arm, Look
from model_release.spec import Canary, ErrorRateGate, LatencyGate
from model_release.traffic.envoy_resources import latency_bounds_ms

BOUNDS = latency_bounds_ms()
RATE_PER_S = 160
INTERVAL_S = 2


def spec(**changes: Any) -> Canary:
    gates = changes.pop("gates", None) or [
        ErrorRateGate(name="errors", kind="error_rate", margin=0.03, objective=0.02),
        LatencyGate(name="latency", kind="latency", margin=0.1, objective={"p99_ms": 100}),
    ]
    sizes = {"warmup_s": 4, "min_bake_s": 15, "max_bake_s": 60, "min_requests": 150, **changes}
    return Canary(gates=gates, **sizes)


class Traffic:
    """Seeded traffic: a share of errors and a median latency (ms) for each arm."""

    def __init__(self, seed: int, stage: int = 10, errors: float = 0.0, median_ms: float = 20.0, **stable: float):
        self.random, self.stage, self.errors, self.median_ms = random.Random(seed), stage, errors, median_ms
        self.stable_errors, self.stable_median_ms = stable.get("stable_errors", 0.0), stable.get("stable_ms", 20.0)

    def looks(self, until_s: float = 60) -> list[Look]:
        return [self.look(t) for t in range(INTERVAL_S, int(until_s) + 1, INTERVAL_S)]

    def look(self, t: float) -> Look:
        requests = RATE_PER_S * INTERVAL_S
        own = sum(self.random.random() * 100 < self.stage for _ in range(requests))
        return Look(
            t,
            self.stage,
            self.arm(own, self.errors, self.median_ms),
            self.arm(requests - own, self.stable_errors, self.stable_median_ms),
        )

    def arm(self, n: int, errors: float, median_ms: float) -> Arm:
        times = sorted(self.random.lognormvariate(0, 0.5) * median_ms for _ in range(n))
        buckets, below = {}, 0
        for bound in BOUNDS:
            while below < n and times[below] < bound:
                below += 1
            buckets[f"{bound:g}"] = below
        failed = sum(self.random.random() < errors for _ in range(n))
        return Arm(n, failed, {**buckets, "+Inf": n})


def judged(traffic: Traffic, canary: Canary | None = None, **how: Any) -> Verdict:
    judge = Judge(canary or spec(), traffic.stage, **{"first_release": False, "bounds_ms": None, **how})
    verdict = None
    for look in traffic.looks():
        verdict = judge.take(look)
        if verdict.done:
            return verdict
    assert verdict is not None
    return verdict


def gate(verdict: Verdict, name: str) -> dict[str, Any]:
    return next(entry for entry in verdict.gates if entry["name"] == name)


# --- rollback ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_ten_percent_errors_at_ten_percent_weight_go_back_within_fifteen_seconds(seed: int) -> None:
    verdict = judged(Traffic(seed, errors=0.1))
    assert verdict.verdict == "rollback"
    assert verdict.t < 15
    assert verdict.reason.startswith("errors: ")


def test_a_rollback_says_both_arms_numbers_and_the_evidence() -> None:
    judge = Judge(spec(), 10, first_release=False, bounds_ms=None)
    for t in (2, 4, 6, 8, 10):
        verdict = judge.take(Look(t, 10, Arm(32, 12), Arm(288, 1)))
    assert verdict.verdict == "rollback"
    assert "60 of 160 canary requests (37.50%) failed, 5 of 1440 of stable (0.35%)" in verdict.reason
    assert "against 100" in verdict.reason
    errors = gate(verdict, "errors")
    assert {key: errors["canary"][key] for key in ("n", "bad", "estimate")} == {"n": 160, "bad": 60, "estimate": 0.375}
    assert errors["canary"]["interval"][0] < 0.375 < errors["canary"]["interval"][1]
    assert errors["stable"]["bad"] == 5
    assert errors["e_value"] > 100
    assert errors["p_value"] <= 1 / errors["e_value"]
    assert errors["phi"] >= 1
    assert errors["verdict"] == "rollback"


def test_one_look_alone_is_no_reason_to_go_back_because_it_may_be_one_crash() -> None:
    verdict = Judge(spec(), 10, first_release=False, bounds_ms=None).take(Look(2, 10, Arm(100, 50), Arm(900, 0)))
    assert verdict.verdict == "inconclusive"
    assert 1 < gate(verdict, "errors")["e_value"] < 100


@pytest.mark.parametrize("stage", [10, 50])
def test_a_much_slower_canary_goes_back_for_its_latency(stage: int) -> None:
    verdict = judged(Traffic(1, stage=stage, median_ms=60))
    assert verdict.verdict == "rollback"
    assert verdict.reason.startswith("latency: ")
    assert gate(verdict, "errors")["verdict"] != "rollback"


def failing_at_once(look: Look, share: float) -> Look:
    """Both arms fail a share of the requests in less than 2 ms; a router times what stable failed alone."""
    stable, canary = look.stable, look.canary
    failed, own = round(stable.requests * share), round(canary.requests * share)
    good, kept = 1 - failed / stable.requests, 1 - own / canary.requests
    timed = {bound: failed + round(count * good) for bound, count in stable.latency_buckets.items()}
    answered = {bound: round(count * kept) for bound, count in canary.latency_buckets.items()}
    return replace(
        look,
        stable=replace(stable, errors=failed, latency_buckets=timed),
        canary=replace(canary, errors=own, latency_buckets=answered),
    )


@pytest.mark.parametrize("stage", [10, 50])
def test_fast_failures_of_both_arms_do_not_make_the_canary_seem_slow(stage: int) -> None:
    gates = [LatencyGate(name="latency", kind="latency", margin=0.1)]
    for seed in range(3):
        judge = Judge(spec(gates=gates, max_bake_s=240), stage, first_release=False, bounds_ms=None)
        looks = Traffic(seed, stage=stage).looks(until_s=200)
        judge.replay([failing_at_once(look, 0.6 if look.t > 20 else 0.0) for look in looks])
        assert judge.log_evidence < 0
        slow = Judge(spec(gates=gates, max_bake_s=240), stage, first_release=False, bounds_ms=None)
        looks = Traffic(seed, stage=stage, median_ms=80).looks(until_s=200)
        slow.replay([failing_at_once(look, 0.6 if look.t > 20 else 0.0) for look in looks])
        assert slow.log_evidence > math.log(100)


def test_healthy_canaries_are_rarely_rolled_back() -> None:
    gone_back = [
        seed
        for seed in range(40)
        if judged(Traffic(seed, stage=50, errors=0.01, stable_errors=0.01)).verdict == "rollback"
    ]
    assert len(gone_back) <= 2


def test_in_the_warm_up_latency_is_not_judged_and_errors_are() -> None:
    slow = spec(warmup_s=20)
    judge = Judge(slow, 50, first_release=False, bounds_ms=[20, 50])
    for look in Traffic(1, stage=50, median_ms=200).looks(until_s=20):
        assert judge.take(look).verdict == "inconclusive"
    verdicts = [judge.take(look).verdict for look in Traffic(1, stage=50, median_ms=200).looks(until_s=30)[10:]]
    assert verdicts[-1] == "rollback"
    assert judged(Traffic(1, stage=50, errors=0.2), slow).verdict == "rollback"
    assert judged(Traffic(1, stage=50, errors=0.2, stable_errors=0.01), slow).t <= 20


def test_one_gate_goes_back_alone_only_beyond_its_weight() -> None:
    # Two gates of the same weight: one alone has to show 200 for a mean of 100.
    judge = Judge(spec(), 10, first_release=False, bounds_ms=None)
    verdicts = [judge.take(Look(2 * k, 10, Arm(140, 1), Arm(900, 0))) for k in range(1, 9)]
    values = [gate(verdict, "errors")["e_value"] for verdict in verdicts]
    assert [verdict.verdict == "rollback" for verdict in verdicts] == [0.5 * value + 0.5 >= 100 for value in values]
    assert any(100 < value < 199 for value in values)
    assert verdicts[-1].verdict == "rollback"


def test_a_dry_run_gate_reports_and_decides_nothing() -> None:
    gates = [
        ErrorRateGate(name="errors", kind="error_rate", margin=0.03, dry_run=True),
        LatencyGate(name="latency", kind="latency", margin=0.1),
    ]
    verdict = judged(Traffic(1, errors=0.3), spec(gates=gates))
    assert verdict.verdict == "advance"
    assert gate(verdict, "errors")["verdict"] == "rollback"
    assert gate(verdict, "errors")["dry_run"] is True


# --- advance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [10, 50, 100])
def test_a_healthy_canary_advances_once_it_has_baked(stage: int) -> None:
    verdict = judged(Traffic(3, stage=stage))
    assert verdict.verdict == "advance"
    assert 15 <= verdict.t <= 30
    assert "errors: 0 of" in verdict.reason
    assert "latency: " in verdict.reason


def test_it_waits_for_requests_then_for_the_bake_and_says_so() -> None:
    judge = Judge(spec(), 50, first_release=False, bounds_ms=None)
    reasons = {look.t: judge.take(look).reason for look in Traffic(1, stage=50).looks(until_s=14)}
    assert reasons[14] == "gathering: 14 of 15 s"
    few = Judge(spec(min_requests=5000), 10, first_release=False, bounds_ms=None)
    assert few.take(Look(2, 10, Arm(120), Arm(1080))).reason == "gathering: 120 of 5000 requests"


def test_it_says_which_proof_is_missing() -> None:
    canary = spec(min_requests=10, min_bake_s=1, gates=[ErrorRateGate(name="errors", kind="error_rate", margin=0.001)])
    verdict = Judge(canary, 10, first_release=False, bounds_ms=None).take(Look(2, 10, Arm(100), Arm(900)))
    assert verdict.verdict == "inconclusive"
    assert verdict.reason.startswith("gathering: errors: 0 of 100 canary requests")
    assert "0.10 allowed" in verdict.reason


def test_a_canary_clearly_worse_than_its_margin_never_advances() -> None:
    assert [judged(Traffic(seed, errors=0.05)).verdict for seed in range(5)] == ["rollback"] * 5


@pytest.mark.parametrize("how", [{"first_release": True}, {"first_release": False}])
def test_without_a_stable_the_objectives_decide(how: dict[str, bool]) -> None:
    assert judged(Traffic(1, stage=100, errors=0.001), **how).verdict == "advance"
    failing = judged(Traffic(1, stage=100, errors=0.2), **how)
    assert failing.verdict == "rollback"
    assert "objective 2.00%" in failing.reason
    slow = judged(Traffic(1, stage=100, median_ms=90), **how)
    assert slow.verdict == "rollback"
    assert "took longer than 110 ms" in slow.reason


def test_a_first_release_needs_no_stable_at_any_stage() -> None:
    judge = Judge(spec(), 10, first_release=True, bounds_ms=None)
    for look in Traffic(1).looks(until_s=40):
        verdict = judge.take(Look(look.t, 10, look.canary, Arm()))
    assert verdict.verdict == "advance"


# --- inconclusive ------------------------------------------------------------------------------


def test_empty_looks_are_inconclusive_and_never_advance() -> None:
    judge = Judge(spec(), 10, first_release=False, bounds_ms=None)
    for t in range(2, 60, 2):
        verdict = judge.take(Look(t, 10))
        assert verdict.verdict == "inconclusive"
        assert verdict.reason == "no_data: no request reached canary and stable since the look before"


@pytest.mark.parametrize("silent", ["canary", "stable"])
def test_when_an_arm_falls_silent_the_stage_does_not_advance(silent: str) -> None:
    judge = Judge(spec(), 50, first_release=False, bounds_ms=None)
    for look in Traffic(3, stage=50).looks(until_s=14):
        judge.take(look)
    full = Traffic(4, stage=50).look(16)
    arms = {"canary": full.canary, "stable": full.stable, silent: Arm()}
    verdict = judge.take(Look(16, 50, **arms))
    assert verdict.verdict == "inconclusive"
    assert verdict.reason.startswith(f"no_data: no request reached {silent}")
    assert judge.take(Traffic(5, stage=50).look(18)).verdict == "advance"


def test_a_router_that_started_again_is_no_data_with_its_reason() -> None:
    verdict = Judge(spec(), 10, first_release=False, bounds_ms=None).take(Look(2, 10, note="it started again"))
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "no_data: it started again")


def test_the_deadline_ends_a_stage_inconclusively_and_says_what_was_missing() -> None:
    verdict = judged(Traffic(1), spec(min_requests=100_000))
    assert (verdict.verdict, verdict.done, verdict.t) == ("inconclusive", True, 60)
    assert verdict.reason.startswith("deadline: 60 s are over; gathering: ")
    assert verdict.reason.endswith("of 100000 requests")


def test_an_outage_until_the_deadline_is_inconclusive() -> None:
    judge = Judge(spec(), 10, first_release=False, bounds_ms=None)
    assert judge.take(Look(60, 10)).reason.startswith("deadline: 60 s are over; no_data: ")


def test_what_can_advance_at_the_deadline_advances() -> None:
    judge = Judge(spec(min_bake_s=59), 50, first_release=False, bounds_ms=None)
    verdicts = [judge.take(look).verdict for look in Traffic(3, stage=50).looks()]
    assert verdicts[-1] == "advance"
    assert set(verdicts[:-1]) == {"inconclusive"}


# --- bounds and replay -------------------------------------------------------------------------


def test_latency_bounds_come_from_stable_before_anything_is_judged() -> None:
    judge = Judge(spec(), 10, first_release=False, bounds_ms=None)
    looks = Traffic(1, median_ms=500).looks(until_s=6)
    assert gate(judge.take(looks[0]), "latency")["bounds_ms"] == []
    assert judge.bounds_ms is None
    for look in looks[1:]:
        verdict = judge.take(look)
    # Stable's median is 20 ms; the canary's 500 ms have no part in it.
    assert judge.bounds_ms == gate(verdict, "latency")["bounds_ms"]
    assert judge.bounds_ms is not None
    assert 17 <= judge.bounds_ms[0] <= 24
    assert judge.bounds_ms[-1] < 90


def test_bounds_of_an_earlier_stage_or_of_the_spec_are_used_as_they_are() -> None:
    for given, own, expected in ((None, [40, 80], [40, 80]), ([30], [40, 80], [30])):
        gates = [LatencyGate(name="latency", kind="latency", bounds_ms=given, margin=0.1)]
        judge = Judge(spec(gates=gates, warmup_s=0), 10, first_release=False, bounds_ms=own)
        verdict = judge.take(Traffic(1).look(2))
        assert gate(verdict, "latency")["bounds_ms"] == expected
        assert gate(verdict, "latency")["canary"]["n"] > 0


def test_replaying_the_looks_gives_the_same_verdicts() -> None:
    traffic = Traffic(5, errors=0.01).looks(until_s=30)
    first, again, resumed = (Judge(spec(), 10, first_release=False, bounds_ms=None) for _ in range(3))
    verdicts = [first.take(look) for look in traffic]
    lines = [json.loads(json.dumps(look.to_dict())) for look in traffic]
    assert [again.take(Look.from_dict(line)) for line in lines] == verdicts
    resumed.replay(traffic[:-1])
    assert resumed.take(traffic[-1]) == verdicts[-1]


def test_time_may_count_from_the_start_of_the_release() -> None:
    judge = Judge(spec(), 50, first_release=False, bounds_ms=None, started_t=1000)
    looks = Traffic(3, stage=50).looks(until_s=20)
    verdicts = [judge.take(Look(look.t + 1000, 50, look.canary, look.stable)).verdict for look in looks]
    assert verdicts[:7] == ["inconclusive"] * 7
    assert "advance" in verdicts[7:]


def test_a_verdict_survives_its_json_line() -> None:
    verdict = judged(Traffic(1, errors=0.5))
    assert Verdict.from_dict(json.loads(json.dumps({**verdict.to_dict(), "action": "rollback"}))) == verdict

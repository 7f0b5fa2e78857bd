"""Errors by user: a canary goes back within alpha however busy and doomed its users are, and at once when it is bad."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from model_release.errors import LookUnusable
from model_release.gates.judge import Judge, Verdict
from model_release.gates.kinds import ErrorGate
from model_release.gates.looks import Arm, Look
from model_release.gates.slow import SlowGate
from model_release.gates.stream import judged
from model_release.gates.users import UserEvidence
from model_release.spec import Canary, LatencyGate
from model_release.traffic.router import USER_LEVELS, SlowBound, Window
from tests.unit.judged_release import LOOK_S, Lately, back_at, come_to

ERRORS = {"name": "errors", "kind": "error_rate", "margin": 0.05}
LOOKS_A_STAGE = 40


def canary(**values: object) -> Canary:
    return Canary.model_validate(
        {"stages": [10, 50, 100], "min_bake_s": 10, "min_requests": 100, "gates": [ERRORS], **values}
    )


@dataclass
class Played:
    """A release at 10 and 50 % with sticky users: `fails(arm, look)` says whom an arm fails at every request then."""

    rng: np.random.Generator
    rates: np.ndarray[Any, Any]
    """How often a user asks in a look, on average."""
    pinned: int = 0
    """So many of the users, the first, are the canary's."""

    def looks(self, fails: Any, stages: tuple[int, ...] = (10, 50), looks: int = LOOKS_A_STAGE) -> Iterator[Look]:
        """A look is a span of the clock; a user comes to a level as `failed_users` of a router counts it."""
        place = self.rng.random(len(self.rates))
        place[: self.pinned] = 0
        before = np.zeros(len(place), int)
        for number, stage in enumerate(stages):
            times, own = np.zeros(len(place), int), place < stage / 100
            lately = Lately(own)
            for k in range(number * looks, (number + 1) * looks):
                asks = self.rng.poisson(self.rates)
                bad = np.where(own, fails("canary", k), fails("stable", k)) & (asks > 0)
                times += bad
                told = bad & ~(own & (times <= before))
                yield Look(
                    LOOK_S * (k + 1),
                    stage,
                    *(
                        Arm(
                            int(asks[arm].sum()),
                            int(asks[arm & bad].sum()),
                            failed_users=come_to(USER_LEVELS, told & arm, times),
                        )
                        for arm in (own, ~own)
                    ),
                    failed_by_window=lately.add(k, bad),
                )
            before = np.where(own, np.maximum(before, times), before)


def by_request(looks: list[Look]) -> list[Look]:
    return [
        replace(look, canary=replace(look.canary, failed_users=None), stable=replace(look.stable, failed_users=None))
        for look in looks
    ]


# --- a healthy canary -----------------------------------------------------------------------------


def test_busy_and_doomed_users_send_a_healthy_canary_back_within_alpha() -> None:
    """Some ask a hundred times as often as others, and 2 % fail at every request on either arm."""
    rng, runs, asked = np.random.default_rng(17), 80, canary(alpha_rollback=0.05)
    back = blind = 0
    for _ in range(runs):
        busy = rng.pareto(1.1, 400)
        doomed = rng.random(400) < 0.02
        played = list(Played(rng, np.minimum(busy / busy.mean(), 20.0)).looks(lambda *_, doomed=doomed: doomed))
        back += back_at(played, asked) is not None
        blind += back_at(by_request(played), asked) is not None
    assert back <= stats.binom.ppf(0.99, runs, 0.05)
    assert blind > stats.binom.ppf(0.999, runs, 0.05)  # requests alone are the trap


def test_a_canary_that_fails_other_users_than_stable_does_but_no_more_of_them_stays() -> None:
    """At 50 % many users meet the canary for the first time, while stable has failed its own before."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        doomed = {arm: rng.random(20_000) < 0.01 for arm in ("canary", "stable")}
        played = Played(rng, np.full(20_000, 0.05 * LOOK_S)).looks(lambda arm, _, doomed=doomed: doomed[arm])
        assert back_at(list(played), canary()) is None


def test_an_incident_of_stable_alone_is_not_held_against_the_canary_afterwards() -> None:
    """It leaves stable fewer users who can still fail for the first time."""
    for seed in range(6):
        rng = np.random.default_rng(seed)

        def fails(arm: str, k: int, rng: np.random.Generator = rng) -> Any:
            return rng.random(5000) < (0.5 if arm == "stable" and 5 <= k < 17 else 0.002)

        assert back_at(list(Played(rng, np.full(5000, 0.2 * LOOK_S)).looks(fails)), canary()) is None


@pytest.mark.parametrize("odds", [0.25, 1.5])
@pytest.mark.parametrize(("users", "share"), [(300, 0.05), (600, 0.2)])
def test_where_one_busy_user_blinds_requests_a_canary_that_fails_no_more_than_allowed_stays(
    users: int, share: float, odds: float
) -> None:
    """He is the canary's and always fails; others of its users fail later than stable's, or so much sooner."""
    rng, runs, back, rates = np.random.default_rng(31), 16, 0, np.full(users, LOOK_S)
    rates[0] = users / 10 * LOOK_S
    allowed = share * odds / (1 - share + share * odds)
    for run in range(runs):

        def fails(arm: str, _: int) -> Any:
            return (np.arange(users) == 0) | (rng.random(users) < (allowed if arm == "canary" else share))

        played = list(Played(rng, rates, pinned=1).looks(fails, (10,), 160))
        back += back_at(played, canary(alpha_rollback=0.05)) is not None
        assert run or back_at(by_request(played), canary()) is not None
    assert back <= stats.binom.ppf(0.99, runs, 0.05)


def test_a_crash_of_the_canary_leaves_busy_and_doomed_users_their_alpha() -> None:
    rng, runs, back = np.random.default_rng(23), 80, 0
    for _ in range(runs):
        busy = rng.pareto(1.1, 400)
        doomed = rng.random(400) < 0.02

        def fails(arm: str, k: int, doomed: Any = doomed) -> Any:
            return doomed | (arm == "canary" and k == 10)

        back += back_at(list(Played(rng, np.minimum(busy / busy.mean(), 20.0)).looks(fails)), canary()) is not None
    assert back <= stats.binom.ppf(0.99, runs, 0.01)


# --- a bad one ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("users", "errors", "begins"), [(200, 0.005, 100), (200, 0.01, 100), (1000, 0.01, 200)])
def test_an_outage_goes_back_when_all_of_the_canarys_users_have_failed_before(
    users: int, errors: float, begins: int
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def fails(arm: str, k: int, rng: np.random.Generator = rng) -> Any:
            return rng.random(users) < (1.0 if arm == "canary" and k >= begins else errors)

        found = back_at(list(Played(rng, np.full(users, LOOK_S)).looks(fails, (10,), begins + 40)), canary())
        assert found is not None
        assert found <= begins + 10


@pytest.mark.parametrize("begins", [0, 20])
@pytest.mark.parametrize(
    ("stage", "users", "asks_per_s"), [(10, 200, 1), (10, 1000, 1), (10, 5000, 1), (50, 1000, 1), (50, 1000, 0.2)]
)
def test_an_outage_goes_back_as_fast_as_by_requests_however_regular_the_users_are(
    stage: int, users: int, asks_per_s: float, begins: int
) -> None:
    """All of them fail for the first time in one look or two, and for ever after."""
    rng = np.random.default_rng(5)

    def fails(arm: str, k: int) -> Any:
        return np.full(users, arm == "canary" and k >= begins) | (rng.random(users) < 0.001)

    played = list(Played(rng, np.full(users, asks_per_s * LOOK_S)).looks(fails, (stage,)))
    found = back_at(played, canary())
    assert found is not None
    assert found == back_at(by_request(played), canary())
    assert found <= begins + 10


def test_a_canary_that_always_fails_every_seventh_user_goes_back() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        harmed = rng.random(400) < 0.15
        played = Played(rng, np.full(400, 1.0)).looks(lambda arm, _, harmed=harmed: harmed & (arm == "canary"))
        assert back_at(list(played), canary()) is not None


@pytest.mark.parametrize("begins", [0, 240])
def test_four_times_the_errors_of_few_users_go_back_within_a_quarter_of_an_hour(begins: int) -> None:
    """Users tell it later than requests: three hundred of them, half a percent of whose requests fail."""
    rng, found = np.random.default_rng(0), []
    for _ in range(3):

        def fails(arm: str, k: int) -> Any:
            return rng.random(300) < (0.02 if arm == "canary" and k >= begins else 0.005)

        found.append(back_at(list(Played(rng, np.full(300, LOOK_S)).looks(fails, (10,), begins + 360)), canary()))
    assert sum(each is not None for each in found) >= len(found) - 1


def test_one_look_in_which_all_users_fail_may_be_one_crash() -> None:
    looks = [look(k) for k in range(1, 40)]
    looks[10] = look(11, bad=100, failed=40)
    assert back_at(looks, canary()) is None


# --- what looks tell ------------------------------------------------------------------------------


def look(k: int, stage: int = 10, *, bad: int = 0, failed: int | None = 0, stable_failed: int | None = 0) -> Look:
    own, other = (None if count is None else (count,) for count in (failed, stable_failed))
    return Look(2.5 * k, stage, Arm(100, bad, failed_users=own), Arm(900, 0, failed_users=other))


def verdicts(looks: list[Look]) -> Iterator[Verdict]:
    return judged(canary(), looks)


def test_one_user_who_fails_all_day_is_one_failure() -> None:
    looks = [look(1, bad=50, failed=1), *(look(k, bad=50) for k in range(2, 60))]
    assert "rollback" not in {verdict.verdict for verdict in verdicts(looks)}
    assert "rollback" in {verdict.verdict for verdict in verdicts(by_request(looks))}


def test_a_canary_whose_few_users_fail_most_requests_is_not_proved_good() -> None:
    """That is of requests: a share of first failures falls with the time alone."""
    *_, last = verdicts([look(1, bad=50, failed=1), *(look(k, bad=50) for k in range(2, 60))])
    assert (last.verdict, last.gates[0]["verdict"]) == ("inconclusive", "inconclusive")
    *_, healthy = verdicts([look(k) for k in range(1, 60)])
    assert healthy.verdict == "advance"


def test_the_sentence_says_requests_and_users() -> None:
    *_, last = verdicts([look(k, bad=3, failed=2, stable_failed=1) for k in range(1, 4)])
    said = last.gates[0]["sentence"]
    assert "9 of 300 canary requests (3.00%) failed, 0 of 2700 of stable" in said
    assert "by user: 6 failed for the first time on the canary, 3 on stable" in said


def test_evidence_is_never_more_than_what_requests_alone_would_give() -> None:
    rng = np.random.default_rng(1)
    both, alone = (Judge(canary(), 10, first_release=False, bounds_ms=None) for _ in range(2))
    for k in range(1, 40):
        failed = [int(rng.integers(0, 4)), int(rng.integers(0, 9))]
        each = look(k, bad=int(rng.integers(0, 8)), failed=failed[0], stable_failed=failed[1])
        both.replay([each])
        alone.replay(by_request([each]))
        assert both.log_evidence <= alone.log_evidence


def test_stages_without_users_go_on_from_the_lesser_evidence_and_alpha_is_spent_once() -> None:
    """A shadow and 100 % are judged by requests, the stages between by both."""
    judge = Judge(canary(), 0, first_release=False, bounds_ms=None)
    judge.replay([look(k, 0, bad=1, failed=None, stable_failed=None) for k in range(1, 4)])
    found = [judge.log_evidence]
    assert found[0] > 0
    for stage in (10, 50):
        judge = Judge(canary(), stage, first_release=False, bounds_ms=None, carried=judge.carried())
        judge.replay([look(1, stage)])
        assert judge.log_evidence == pytest.approx(found[-1])
        judge.replay([look(k, stage, bad=40, failed=1) for k in range(2, 4)])
        found.append(judge.log_evidence)
    assert found == sorted(found)
    whole = Judge(canary(), 100, first_release=False, bounds_ms=None, carried=judge.carried())
    whole.replay([Look(2.5, 100, Arm(1000, 0), control=Arm(100, 0))])
    assert whole.log_evidence == pytest.approx(found[-1])


def test_requests_of_one_doomed_user_are_no_evidence_in_any_later_stage() -> None:
    judge = Judge(canary(), 10, first_release=False, bounds_ms=None)
    judge.replay([look(k, bad=60) for k in range(1, 30)])
    assert judge.log_evidence <= 0
    after = Judge(canary(), 50, first_release=False, bounds_ms=None, carried=judge.carried())
    assert after.log_evidence <= 0


def test_users_are_told_of_with_or_without_those_who_asked() -> None:
    arm = {"requests": 5, "errors": 1, "latency_buckets": {}}
    assert Arm.from_dict({**arm, "failed_users": 1}).failed_users == (1,)
    assert Arm.from_dict({**arm, "failed_users": [1, 0]}).failed_users == (1, 0)
    assert Arm.from_dict({**arm, "failed_users": 1, "users": 3}).users == 3
    for wrong in ({"users": 3}, {"users": 3, "failed_users": 4}, {"failed_users": -1}, {"failed_users": [1, -1]}):
        with pytest.raises(LookUnusable, match="failed users of"):
            Arm.from_dict({**arm, **wrong})


def held_against(*looks: Look) -> float:
    """The evidence of users alone."""
    gate = ErrorGate(canary().gates[0], 0.01, one_armed=False)
    evidence = UserEvidence("failed", 1.5)
    for each in looks:
        [told] = gate.told_of_users(each)
        evidence.take(told.at_risk, told.canary, told.stable)
    return evidence.log_evidence


def test_users_are_held_against_the_weight_and_not_against_how_busy_the_arms_are() -> None:
    """A busy user on the canary makes its share of the requests great, not its share of the users."""
    looks = range(1, 6)
    quiet = [Look(k, 10, Arm(100, failed_users=(1,)), Arm(900, failed_users=(1,))) for k in looks]
    busy = [Look(k, 10, Arm(500, failed_users=(1,)), Arm(500, failed_users=(1,))) for k in looks]
    assert held_against(*quiet) == held_against(*busy) > 0


def test_users_who_asked_are_taken_where_they_are_known() -> None:
    told = Look(1, 10, Arm(100, users=50, failed_users=(2,)), Arm(900, users=50, failed_users=(2,)))
    weighed = Look(1, 50, Arm(100, failed_users=(2,)), Arm(900, failed_users=(2,)))
    assert held_against(told) == held_against(weighed)


came = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(7, 10)), min_size=1, max_size=9)


def evidence_of(looks: list[tuple[int, int, int]], windows: bool) -> UserEvidence:
    """Of looks with so many users of the canary and of stable who failed for the first time, in a window."""
    evidence = UserEvidence("failed", 1.0)
    for own, other, number in looks:
        arms = ((own,), (other,))
        evidence.take((10, 90), *(((), ()) if windows else arms), [Window(1, number, *arms)] if windows else [])
    return evidence


@given(came, st.randoms(use_true_random=False))
def test_evidence_is_of_how_many_came_and_not_of_when(looks: list[tuple[int, int, int]], random: Any) -> None:
    """Else users of a better canary, who come when those of stable have all come, are taken for harmed ones."""
    shuffled = random.sample(looks, len(looks))
    found, other = (evidence_of(each, windows=False).log_evidence for each in (looks, shuffled))
    assert found == pytest.approx(other)
    fewer = [(max(0, own - 1), stable, number) for own, stable, number in looks]
    assert evidence_of(fewer, windows=False).log_evidence <= found + 1e-9


@given(came)
def test_evidence_goes_on_in_another_process_and_stage(looks: list[tuple[int, int, int]]) -> None:
    looks = sorted(looks, key=lambda each: each[2])
    whole = evidence_of(looks, windows=True)
    gate = {"by_user": [json.loads(json.dumps(whole.carried()))], "log_evidence": whole.log_evidence}
    [after] = UserEvidence.begin(["failed"], 1.0, math.inf, gate)
    assert after.log_evidence == pytest.approx(whole.log_evidence)
    assert after.given_away == pytest.approx(0)
    [lesser] = UserEvidence.begin(["failed"], 1.0, math.inf, {**gate, "log_evidence": whole.log_evidence - 1})
    assert lesser.log_evidence == pytest.approx(whole.log_evidence - 1)


def test_windows_share_what_is_bet_on_them_and_one_that_is_over_counts_no_more() -> None:
    evidence = evidence_of([(1, 9, number) for number in range(1, 200)], windows=True)
    assert 0.5 <= math.exp(evidence.log_evidence) <= 1
    found = evidence.log_evidence
    evidence.take((10, 90), (), (), [Window(1, 100, (9,), (0,))])
    assert evidence.log_evidence == found
    evidence.take((10, 90), (), (), [Window(1, 199, (9,), (0,)), Window(1, 198, (9,), (0,))])
    assert evidence.log_evidence > found


def test_windows_and_levels_that_this_version_does_not_know_say_nothing() -> None:
    evidence = UserEvidence("failed", 1.0)
    evidence.take((10, 90), (0,) * 30 + (9,), (0,) * 31, [Window(7, 1, (9,), (0,)), Window(1, 1, (0,) * 20 + (9,), ())])
    assert evidence.log_evidence == pytest.approx(0)


@pytest.mark.parametrize("stage", [0, 100])
def test_at_weights_that_share_no_users_affected_ones_are_not_taken(stage: int) -> None:
    affected = {"failed_users": (1,), "slow_users": ((1,),)}
    slow = LatencyGate(name="latency", kind="latency")
    errors = ErrorGate(canary().gates[0], 0.01, one_armed=False)
    for gate in (errors, SlowGate(slow, 0.01, one_armed=False, bounds_ms=None)):
        arms = Arm(10, **affected), Arm(90, **affected)
        there, here = (Look(1, at, *arms, slow_ms=(SlowBound(8.0, 8.0),)) for at in (stage, 10))
        assert not gate.told_of_users(there)
        assert gate.told_of_users(here)

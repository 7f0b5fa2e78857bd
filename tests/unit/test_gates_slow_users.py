"""Latency by user: busy users with slow requests send no healthy canary back, and a slow one goes back all the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from model_release.gates.judge import Judge
from model_release.gates.latency import bounds_from, slow_for_users
from model_release.gates.looks import Arm, Look
from model_release.gates.stream import judged
from model_release.spec import Canary
from model_release.traffic.envoy_resources import latency_bounds_ms
from model_release.traffic.envoy_users import OFTEN_SAMPLED_PERCENT
from model_release.traffic.router import USER_LEVELS, SlowBound
from tests.unit.judged_release import LOOK_S, Lately, back_at, come_to

BOUNDS = np.array(latency_bounds_ms())
SLOWER_THAN = 1.2
LATENCY = {"name": "latency", "kind": "latency", "margin": 0.1, "slower_than": SLOWER_THAN}
LOOKS_A_STAGE, MEDIAN_MS = 40, 40.0


def canary(**values: object) -> Canary:
    return Canary.model_validate(
        {"stages": [10, 50, 100], "min_bake_s": 10, "warmup_s": 0, "min_requests": 100, "gates": [LATENCY], **values}
    )


def buckets(times: np.ndarray[Any, Any]) -> dict[str, int]:
    below = np.searchsorted(np.sort(times), BOUNDS, side="right")
    return {**{f"{bound:g}": int(n) for bound, n in zip(BOUNDS, below, strict=True)}, "+Inf": len(times)}


@dataclass
class Played:
    """A release at 10 and 50 % with sticky users, each with a median latency and a rate of his own."""

    rng: np.random.Generator
    rates: np.ndarray[Any, Any]
    """How often a user asks in a look, on average."""
    medians_ms: np.ndarray[Any, Any]
    spread: float = 0.5
    given_ms: tuple[float, ...] = ()
    """A gate's own bounds."""
    stalls: float = 0.0
    """The share of the canary's requests that take a second longer."""
    pinned: int = 0
    """So many of the users, the first, are the canary's."""

    def __post_init__(self) -> None:
        times = self.times(np.repeat(np.arange(len(self.rates)), 20))
        found = bounds_from(buckets(times))
        assert found is not None
        self.bounds_ms = found
        slow = slow_for_users(buckets(times), SLOWER_THAN, self.given_ms)
        assert slow is not None
        self.slow_ms = [*([slow.often_ms] if slow.often_ms else []), *slow.bounds_ms]
        self.logged_ms = slow.bounds_ms[0]

    def times(self, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.medians_ms[users] * np.exp(self.spread * self.rng.standard_normal(len(users)))

    def looks(
        self, factor: float = 1.0, stages: tuple[int, ...] = (10, 50), begins: int = 0, looks: int = LOOKS_A_STAGE
    ) -> Iterator[Look]:
        """The canary is `factor` times as slow from a look on; a user comes to a level as a router counts it."""
        place = self.rng.random(len(self.rates))
        place[: self.pinned] = 0
        before = np.zeros((len(self.slow_ms), len(place)), int)
        for number, stage in enumerate(stages):
            spans, own = np.zeros_like(before), place < stage / 100
            lately = [Lately(own) for _ in self.slow_ms]
            for k in range(number * looks, (number + 1) * looks):
                users = np.repeat(np.arange(len(place)), self.rng.poisson(self.rates))
                of_fault = own[users] & (k >= begins)
                times = self.times(users) * np.where(of_fault, factor, 1.0)
                times[of_fault & (self.rng.random(len(times)) < self.stalls)] += 1000
                late = np.zeros_like(before, bool)
                sampled = self.rng.random(len(times)) < OFTEN_SAMPLED_PERCENT / 100
                logged = sampled | (times > np.where(own[users], *self.logged_ms))
                for each, bound in zip(late, self.slow_ms, strict=True):
                    each[users[logged & (times > np.where(own[users], *bound))]] = True
                spans += late
                told = late & ~(own & (spans <= before))
                arms = (
                    Arm(
                        int(arm[users].sum()),
                        latency_buckets=buckets(times[arm[users]]),
                        slow_users=tuple(
                            come_to(USER_LEVELS, new & arm, at) for new, at in zip(told, spans, strict=True)
                        ),
                    )
                    for arm in (own, ~own)
                )
                windows = tuple(each.add(k, new) for each, new in zip(lately, late, strict=True))
                t = LOOK_S * (k + 1)
                yield Look(t, stage, *arms, slow_ms=tuple(self.slow_ms), slow_by_window=windows)
            before = np.where(own, np.maximum(before, spans), before)

    def back_at(self, looks: list[Look], asked: Canary) -> int | None:
        """At which look the evidence suffices, if ever."""
        return back_at(looks, asked, self.given_ms or self.bounds_ms)


def by_request(looks: list[Look]) -> list[Look]:
    return [
        replace(look, canary=replace(look.canary, slow_users=None), stable=replace(look.stable, slow_users=None))
        for look in looks
    ]


def played(seed: int, users: int, asks_per_s: float, spread: float = 0.5) -> Played:
    rng = np.random.default_rng(seed)
    return Played(rng, np.full(users, asks_per_s * LOOK_S), np.full(users, MEDIAN_MS), spread)


# --- a healthy canary -----------------------------------------------------------------------------


def test_busy_users_with_slow_requests_send_a_healthy_canary_back_within_alpha() -> None:
    """Some ask a hundred times as often as others, and the requests of 3 % take six times as long on either arm."""
    rng, runs, asked = np.random.default_rng(17), 80, canary(alpha_rollback=0.05)
    back = blind = 0
    for _ in range(runs):
        busy = rng.pareto(1.1, 400)
        heavy = np.where(rng.random(400) < 0.03, 6 * MEDIAN_MS, MEDIAN_MS)
        release = Played(rng, np.minimum(busy / busy.mean(), 20.0), heavy)
        looks = list(release.looks())
        back += release.back_at(looks, asked) is not None
        blind += release.back_at(by_request(looks), asked) is not None
    assert back <= stats.binom.ppf(0.99, runs, 0.05)
    assert blind > stats.binom.ppf(0.999, runs, 0.05)  # requests alone are the trap


@pytest.mark.parametrize("spread", [0.5, 0.05])
def test_a_canary_that_is_slower_by_no_more_than_allowed_stays(spread: float) -> None:
    for seed in range(3):
        release = played(seed, 1000, 1, spread)
        assert release.back_at(list(release.looks(1.15)), canary()) is None


@pytest.mark.parametrize("factor", [0.8, 1.15])
@pytest.mark.parametrize(("users", "asks_per_s", "spread"), [(480, 0.3, 0.25), (200, 1, 0.5)])
def test_where_one_busy_user_blinds_requests_others_send_no_healthy_canary_back_beyond_alpha(
    factor: float, users: int, asks_per_s: float, spread: float
) -> None:
    """He is the canary's, whose users are slow later than stable's, and it may be slower by what is allowed."""
    rng, runs, asked, back = np.random.default_rng(29), 16, canary(alpha_rollback=0.05), 0
    rates, medians = np.full(users, asks_per_s * LOOK_S), np.full(users, MEDIAN_MS)
    rates[0], medians[0] = 6 * LOOK_S, 3 * MEDIAN_MS
    for run in range(runs):
        release = Played(rng, rates, medians, spread, pinned=1)
        looks = list(release.looks(factor, (10,), looks=160))
        back += release.back_at(looks, asked) is not None
        assert run or release.back_at(by_request(looks), asked) is not None
    assert back <= stats.binom.ppf(0.99, runs, 0.05)


# --- a slow one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", [0, 20])
@pytest.mark.parametrize("spread", [0.5, 0.05], ids=["as usual", "nearly constant"])
@pytest.mark.parametrize(("stage", "users", "asks_per_s"), [(10, 200, 1), (10, 5000, 0.2), (50, 1000, 0.2)])
def test_twice_the_latency_goes_back_as_fast_as_by_requests(
    stage: int, users: int, asks_per_s: float, spread: float, begins: int
) -> None:
    """Also when all of its users were slow at times before."""
    release = played(5, users, asks_per_s, spread)
    looks = list(release.looks(2.0, (stage,), begins))
    found, alone = release.back_at(looks, canary()), release.back_at(by_request(looks), canary())
    assert found is not None
    assert alone is not None
    assert found <= (begins + 10 if begins else alone + 2)  # what begins later shows in the next minute


@pytest.mark.parametrize("share", [0.03, 0.06, 0.12])
def test_a_slower_median_goes_back_however_long_the_tail_of_stables_latency_is(share: float) -> None:
    """The requests of some users take ten times as long, so that nothing of the median comes near the p95."""
    rng = np.random.default_rng(3)
    medians = np.where(rng.random(1000) < share, 10 * MEDIAN_MS, MEDIAN_MS)
    release = Played(rng, np.full(1000, LOOK_S), medians, 0.3)
    looks = list(release.looks(1.5, (10,)))
    found, alone = release.back_at(looks, canary()), release.back_at(by_request(looks), canary())
    assert found is not None
    assert alone is not None
    assert found <= alone + 4


@pytest.mark.parametrize("seed", range(3))
def test_few_requests_that_stall_beyond_a_gates_own_bound_go_back_nearly_as_fast_as_by_requests(seed: int) -> None:
    """Stable's p95 and p99 hide them."""
    rng = np.random.default_rng(seed)
    release = Played(rng, np.full(2000, 0.1 * LOOK_S), np.full(2000, MEDIAN_MS), given_ms=(500.0,), stalls=0.003)
    asked = canary(gates=[{**LATENCY, "bounds_ms": [500]}])
    looks = list(release.looks(stages=(10,), looks=80))
    found, alone = release.back_at(looks, asked), release.back_at(by_request(looks), asked)
    assert found is not None
    assert alone is not None
    assert found <= alone + 12


@pytest.mark.parametrize("asks_per_s", [1, 5])
def test_a_canary_that_turns_slow_after_a_quarter_of_an_hour_goes_back_within_minutes(asks_per_s: int) -> None:
    """By then its users have all been slow dozens of times, as stable's have."""
    release = played(5, 200, asks_per_s)
    found = release.back_at(list(release.looks(2.0, (10,), 340, 400)), canary())
    assert found is not None
    assert 340 < found <= 380


# --- what looks tell ------------------------------------------------------------------------------


def look(k: int, stage: int = 10, *, slow: int = 0, users: int | None = 0, stable_users: int | None = 0) -> Look:
    own, other = (None if count is None else ((count,),) for count in (users, stable_users))
    times, fast = {"40": 100 - slow, "80": 100 - slow, "+Inf": 100}, {"40": 900, "80": 900, "+Inf": 900}
    canary_arm = Arm(100, latency_buckets=times, slow_users=own)
    stable = Arm(900, latency_buckets=fast, slow_users=other)
    return Look(LOOK_S * k, stage, canary_arm, stable, slow_ms=(() if users is None else (SlowBound(48.0, 40.0),)))


def test_one_user_who_is_slow_all_day_is_one_slow_user_and_said_so() -> None:
    asked = canary(gates=[{**LATENCY, "bounds_ms": [40]}])
    looks = [look(1, slow=30, users=1), *(look(k, slow=30) for k in range(2, 40))]
    verdicts = list(judged(asked, looks))
    assert {verdict.verdict for verdict in verdicts} == {"inconclusive"}  # nor is it proved good, by its requests
    assert verdicts[-1].reason.endswith(
        "by user: 1 waited longer than 48 ms (stable's bound 40 ms) for the first time on the canary, 0 on stable"
    )
    assert "rollback" in {verdict.verdict for verdict in judged(asked, by_request(looks))}


def test_a_stage_without_users_goes_on_from_the_lesser_evidence() -> None:
    asked = canary(gates=[{**LATENCY, "bounds_ms": [40]}])
    judge = Judge(asked, 10, first_release=False, bounds_ms=None)
    judge.replay([look(1, slow=30, users=1), *(look(k, slow=30) for k in range(2, 20))])
    found = judge.log_evidence
    assert found < 1
    judge.replay([look(20, users=None, stable_users=None)])
    assert judge.log_evidence == pytest.approx(found)
    after = Judge(asked, 50, first_release=False, bounds_ms=None, carried=judge.carried())
    after.replay([look(1, 50)])
    assert after.log_evidence == pytest.approx(found)


def test_a_look_in_which_the_warm_up_ends_tells_of_users_and_judges_nothing_yet() -> None:
    """Stable's, who are many, would be missed there, and those of the canary who come later would stand alone."""
    asked = canary(warmup_s=30, gates=[{**LATENCY, "bounds_ms": [40]}])
    found = []
    for stable_users in (0, 360):
        judge = Judge(asked, 10, first_release=False, bounds_ms=None)
        judge.replay([*(look(k) for k in range(1, 12)), look(12, slow=50, stable_users=stable_users)])
        assert judge.log_evidence <= 0
        judge.replay([look(k, slow=50, users=8) for k in range(13, 18)])
        found.append(judge.log_evidence)
    assert found[0] > math.log(100)
    assert found[1] < 1


def of_a_hundred(*spread: tuple[float, int]) -> dict[str, int]:
    """Thrice a hundred requests in Envoy's buckets, so many of each hundred of a latency (ms)."""
    return buckets(np.repeat([ms for ms, _ in spread], [3 * count for _, count in spread]))


TAILED = ((41, 75), (90, 20), (130, 4), (200, 1))


@pytest.mark.parametrize(
    ("spread", "slower_than", "given_ms", "found"),
    [
        (TAILED, 1.2, [], ((51, 42), [(110, 90), (160, 130)])),
        (TAILED, 1.2, [500, 45, 130], ((51, 42), [(110, 90), (160, 130), (630, 520)])),
        (((41, 95), (45, 4), (200, 1)), 1.5, [], ((68, 42), [(75, 46)])),
        (((3, 70), (5, 29), (7, 1)), 1.5, [], ((6, 4), [(10, 6)])),
        (((1, 100),), 1.5, [1.5, 50], (None, [(4, 2), (82, 51)])),
    ],
)
def test_what_is_slow_for_users_is_rare_on_stable_or_told_of_by_a_sample(
    spread: Any, slower_than: float, given_ms: list[float], found: Any
) -> None:
    assert slow_for_users(of_a_hundred(*spread), slower_than, given_ms) == found

"""The e-processes and confidence bounds, against independent arithmetic and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betaln, logsumexp

from model_release.gates import sequential as seq
from model_release.gates.latency import bounds_from, comparison
from model_release.gates.plan import Present, plan_stage
from model_release.spec import Canary, ErrorRateGate, LatencyGate
from model_release.traffic.envoy_resources import latency_bounds_ms

few = settings(max_examples=40)

count = st.tuples(st.integers(0, 400), st.integers(0, 400)).map(lambda pair: (max(pair), min(pair)))
looks = st.lists(st.tuples(count, count), max_size=8)


def after(given: list[tuple[tuple[int, int], tuple[int, int]]], odds_ratio: float) -> seq.State:
    state = seq.START
    for canary, stable in given:
        state = seq.two_arms(state, canary, stable, odds_ratio)
    return state


@few
@given(looks, st.floats(1, 3))
def test_evidence_equals_the_binomial_likelihood_ratio_of_each_look(
    given: list[tuple[tuple[int, int], tuple[int, int]]], odds_ratio: float
) -> None:
    effects, expected = np.array(seq.EFFECTS), np.zeros(len(seq.EFFECTS))
    for (n, bad), (stable_n, stable_bad) in given:
        if n and stable_n:
            null = odds_ratio * n / (odds_ratio * n + stable_n)
            shifted = odds_ratio * effects * n / (odds_ratio * effects * n + stable_n)
            every = bad + stable_bad
            expected += stats.binom.logpmf(bad, every, shifted) - stats.binom.logpmf(bad, every, null)
    assert seq.log_mean(after(given, odds_ratio)) == pytest.approx(
        logsumexp(expected) - math.log(len(effects)), abs=1e-6
    )


@few
@given(looks, st.randoms())
def test_the_order_of_looks_does_not_matter(given: list, random: object) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert after(shuffled, 1.5) == pytest.approx(after(given, 1.5), abs=1e-7)


@few
@given(count)
def test_a_look_with_an_empty_arm_changes_nothing(arm: tuple[int, int]) -> None:
    assert seq.two_arms(seq.START, arm, (0, 0), 1.5) == seq.START
    assert seq.two_arms(seq.START, (0, 0), arm, 1.5) == seq.START


@few
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 6), st.floats(1, 3))
def test_one_look_has_a_mean_of_at_most_one_at_the_worst_null(
    n: int, stable_n: int, bad: int, odds_ratio: float
) -> None:
    # Given the bad events, the canary's share of them is Fisher's noncentral hypergeometric, enumerated here.
    bad = min(bad, n + stable_n)
    shares = range(max(0, bad - stable_n), min(bad, n) + 1)
    weights = [math.comb(n, own) * math.comb(stable_n, bad - own) * odds_ratio**own for own in shares]
    chances = [weight / sum(weights) for weight in weights]
    mean = sum(
        chance * math.exp(seq.log_mean(seq.two_arms(seq.START, (n, own), (stable_n, bad - own), odds_ratio)))
        for own, chance in zip(shares, chances, strict=True)
    )
    assert mean <= 1 + 1e-6


@few
@given(st.integers(1, 60), st.floats(0.001, 0.5))
def test_the_one_armed_process_has_a_mean_of_one_at_its_limit(n: int, limit: float) -> None:
    chances = stats.binom.pmf(np.arange(n + 1), n, limit)
    mean = sum(
        chance * math.exp(seq.log_mean(seq.one_arm(seq.START, (n, bad), limit))) for bad, chance in enumerate(chances)
    )
    assert mean == pytest.approx(1, rel=1e-6)


def test_a_canary_as_good_as_stable_is_rolled_back_no_more_often_than_alpha() -> None:
    rng, runs, alpha, crossed = np.random.default_rng(7), 400, 0.05, 0
    for _ in range(runs):
        state, passed = seq.START, False
        for _ in range(60):
            n, stable_n = rng.poisson(16), rng.poisson(144)
            bad, stable_bad = rng.binomial(n, 0.02), rng.binomial(stable_n, 0.02)
            state = seq.two_arms(state, (n, bad), (stable_n, stable_bad), 1.0)
            passed = passed or seq.log_mean(state) >= math.log(1 / alpha)
        crossed += passed
    # Three standard deviations above alpha.
    assert crossed <= runs * alpha + 3 * (runs * alpha) ** 0.5


def test_an_incident_that_strikes_both_arms_is_no_evidence() -> None:
    incident = [((16, 0), (144, 1))] * 10 + [((16, 5), (144, 45))] * 10
    assert math.exp(seq.log_mean(after(incident, 1.0))) < 1


def test_a_change_of_weight_with_a_change_of_load_is_no_evidence() -> None:
    # Pooled, the canary would fail 0.37 % against stable's 0.16 %: each arm fails alike in each half.
    shifted = [((1000, 1), (9000, 9))] * 10 + [((5000, 20), (5000, 20))] * 10
    assert math.exp(seq.log_mean(after(shifted, 1.0))) < 1


@few
@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.05, 0.01]))
def test_bounds_enclose_the_estimate_and_are_where_the_mixture_says(n: int, share: float, alpha: float) -> None:
    bad = round(share * n)
    low, high = seq.lower_bound(n, bad, alpha), seq.upper_bound(n, bad, alpha)
    assert 0 <= low <= bad / n <= high <= 1
    mixture = logsumexp(
        [betaln(0.5 + bad, 50 + n - bad) - betaln(0.5, 50), betaln(0.5 + bad, 0.5 + n - bad) - betaln(0.5, 0.5)],
        b=[0.9, 0.1],
    )
    for bound in {low, high} - {0.0, 1.0}:
        likelihood = bad * math.log(bound) + (n - bad) * math.log1p(-bound)
        assert mixture - likelihood == pytest.approx(-math.log(alpha), abs=1e-3)


@few
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(1, 300), st.sampled_from([0.05, 0.01, 1e-4]))
@example(n=40, share=0.975, phi=18.0, alpha=0.05)
def test_bounds_enclose_the_estimate_however_few_clumps_the_bad_ones_come_in(
    n: int, share: float, phi: float, alpha: float
) -> None:
    """In units of clumps there may be less than one good request, which no share below 1.0 rules out."""
    bad = round(share * n)
    low, high = seq.lower_bound(n / phi, bad / phi, alpha), seq.upper_bound(n / phi, bad / phi, alpha)
    assert 0 <= low <= bad / n + 1e-12
    assert bad / n - 1e-12 <= high <= 1


def test_the_upper_bound_holds_at_every_look_at_once() -> None:
    rng, missed = np.random.default_rng(3), 0
    for _ in range(300):
        bad = np.cumsum(rng.binomial(50, 0.02, 40))
        missed += any(seq.upper_bound(50 * (k + 1), int(bad[k]), 0.05) < 0.02 for k in range(40))
    assert missed <= 300 * 0.05 + 3 * (300 * 0.05) ** 0.5


def test_bounds_of_latency_are_the_buckets_nearest_to_stables_quantiles() -> None:
    buckets = {"2": 300, "4": 520, "6": 900, "8": 948, "10": 970, "20": 991, "50": 999, "+Inf": 1000}
    assert bounds_from(buckets) == [4, 8, 20]
    assert bounds_from({"2": 150, "+Inf": 150}) is None
    assert bounds_from({"2": 1000, "4": 1000, "+Inf": 1000}) == [2]


@pytest.mark.parametrize(
    ("known", "bound", "expected"),
    [
        (latency_bounds_ms(), 100, (110, 99, 1.0)),
        (latency_bounds_ms(), 4, (6, 4, 1.0)),
        ([100, 250, 500, 1000], 250, (250, 250, 1.1**3)),
        ([100, 250, 500, 1000], 1000, (1000, 1000, 1.1**3)),
    ],
    ids=["fine", "as fine as the router measures", "coarse", "the last"],
)
def test_a_canary_may_be_slower_by_the_margin_or_one_fine_bucket(
    known: list[float], bound: float, expected: tuple[float, float, float]
) -> None:
    assert comparison(bound, 1.1, known) == pytest.approx(expected)


def needed_requests(canary: Canary, stage: int) -> int:
    return plan_stage(canary, stage, Present(shares={"errors": 0.0})).requests


def test_needed_requests_grow_as_margins_shrink_and_suffice_for_a_healthy_version() -> None:
    def canary(margin: float) -> Canary:
        gates = [
            ErrorRateGate(name="errors", kind="error_rate", margin=margin, objective=0.01),
            LatencyGate(name="latency", kind="latency", margin=margin),
        ]
        return Canary(gates=gates, min_requests=1)

    for stage in (10, 50, 100):
        needed = [needed_requests(canary(margin), stage) for margin in (0.1, 0.03, 0.01)]
        assert needed == sorted(needed)
        assert needed[0] < needed[2]


def test_min_requests_are_needed_in_any_case_and_dry_runs_need_none() -> None:
    gate = ErrorRateGate(name="errors", kind="error_rate", margin=1e-4, dry_run=True)
    assert needed_requests(Canary(gates=[gate], min_requests=77), 10) == 77

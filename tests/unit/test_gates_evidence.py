"""Capital, dispersion, non-inferiority: Ville's inequality at the pitfalls, special cases by other formulas."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from model_release.gates import sequential as seq
from model_release.gates.comparison import Comparison
from model_release.gates.dispersion import Dispersion
from model_release.gates.noninferiority import Proof, one_arm_ratio, two_arm_ratio
from model_release.gates.wealth import CASH, PRIOR, Wealth

few = settings(max_examples=30)
ALPHA = 0.01
MOST = 0.6 * math.log(1 / ALPHA)
share = st.floats(0.0005, 0.6)


# --- capital -----------------------------------------------------------------------------------


def test_capital_starts_at_one_and_is_laid_out_as_said() -> None:
    assert Wealth().total == pytest.approx(0)
    assert Wealth().cash == CASH
    assert sum(Wealth().bets) == pytest.approx(1 - CASH)
    assert list(Wealth().bets) == pytest.approx([(1 - CASH) * each for each in PRIOR])
    assert len(PRIOR) == len(seq.EFFECTS), "one share for each effect"
    assert math.isclose(sum(PRIOR), 1)


@few
@given(st.lists(st.lists(st.floats(-3, 3), min_size=6, max_size=6), max_size=6))
def test_capital_is_the_sum_of_its_parts_as_kept_by_hand(looks: list[list[float]]) -> None:
    wealth, cash, bets = Wealth(), CASH, np.array(Wealth().bets)
    for ratios in looks:
        wealth.take(ratios, math.inf)
        bets = bets * np.exp(ratios) + 0.01 * cash * np.array(PRIOR)
        cash *= 0.99
    assert wealth.total == pytest.approx(math.log(cash + bets.sum()), abs=1e-9)
    assert wealth.cash * math.exp(wealth.total) == pytest.approx(cash)


def test_capital_neither_overflows_nor_is_lost_for_good() -> None:
    wealth = Wealth()
    for _ in range(2000):
        wealth.take((1000.0,) * len(PRIOR), MOST)
    assert wealth.total == pytest.approx(2000 * MOST)
    wealth = Wealth()
    for _ in range(2000):
        wealth.take((-1000.0,) * len(PRIOR), MOST)
    assert math.isfinite(wealth.total)
    wealth.take((3.0,) * len(PRIOR), MOST)
    assert wealth.total < wealth.peak


@few
@given(st.lists(st.integers(0, 3), max_size=12))
def test_moving_capital_about_creates_none(stages: list[int]) -> None:
    wealth = Wealth()
    for stage in stages:
        before = wealth.total
        wealth.take(seq.START, MOST)
        if stage == 0:
            wealth.begin_stage()
        assert wealth.total == pytest.approx(before, abs=1e-12)


def test_one_look_multiplies_capital_by_no_more_than_its_cap() -> None:
    wealth = Wealth()
    wealth.take((50.0,) * len(seq.EFFECTS), MOST)
    assert wealth.total == pytest.approx(MOST)
    assert wealth.peak == pytest.approx(MOST)


def test_cash_catches_a_canary_that_turns_bad_late() -> None:
    def looks_until_found(healthy: int) -> int:
        comparison = Comparison("failed", 0.01, MOST, 1.5)
        for _ in range(healthy):
            comparison.take((1000, 1), (9000, 9))
        comparison.wealth.begin_stage()
        for look in range(1, 100):
            comparison.take((5000, 50), (5000, 5))
            if comparison.log_evidence >= math.log(1 / ALPHA):
                return look
        return 100

    assert looks_until_found(500) <= looks_until_found(0) + 6


@few
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.floats(1, 3), st.integers(1, 4))
def test_a_look_is_fair_by_exact_enumeration_even_when_all_its_bad_events_are_one_clump(
    n: int, stable_n: int, looks: int, odds_ratio: float, size: int
) -> None:
    # Each look has one clump, which falls on the canary with the share of its requests times the allowed odds.
    chance = odds_ratio * n / (odds_ratio * n + stable_n)
    mean = 0.0
    for outcome in itertools.product((True, False), repeat=looks):
        comparison = Comparison("failed", 0.01, math.inf, odds_ratio)
        weight = 1.0
        for hit in outcome:
            weight *= chance if hit else 1 - chance
            own = (n * size, size if hit else 0)
            comparison.wealth.take(
                seq.two_arms(
                    seq.START, own, (stable_n * size, size - own[1]), odds_ratio, comparison.dispersion.for_look(size)
                ),
                math.inf,
            )
        mean += weight * math.exp(comparison.log_evidence)
    assert mean == pytest.approx(1, abs=1e-9)


# --- dispersion --------------------------------------------------------------------------------


def test_it_equals_pearsons_chi_square_by_an_independent_routine() -> None:
    parts = [(1000, 7), (2000, 11), (500, 9)]
    dispersion = Dispersion()
    dispersion.take((3500, 27), parts)
    table = np.array([[bad, n - bad] for n, bad in parts])
    chi_square = stats.chi2_contingency(table, correction=False).statistic
    # The contingency table's statistic is n/(n-1) times the hypergeometric one.
    assert dispersion.phi == pytest.approx(chi_square * 3499 / 3500 / 2)
    assert dispersion.splits == 2


def clumped(rng: np.random.Generator, n: np.ndarray, rate: float, size: float) -> np.ndarray:
    """Bad events in clumps of geometric size with that mean, each within its look."""
    clumps = rng.binomial(n, rate / size)
    more = rng.negative_binomial(np.maximum(clumps, 1), 1 / size) if size > 1 else 0
    return np.minimum(n, clumps + more * (clumps > 0))


@pytest.mark.parametrize(("size", "phi"), [(1.0, 1.0), (3.0, 5.0), (10.0, 19.0)])
@pytest.mark.parametrize("by_replica", [False, True])
def test_it_finds_the_mean_size_of_the_clump_that_an_event_lies_in(size: float, phi: float, by_replica: bool) -> None:
    rng, dispersion = np.random.default_rng(1), Dispersion()
    n = rng.poisson(1000, (1500, 2))
    bad = clumped(rng, n, 0.01, size)
    for own, failed in zip(n.tolist(), bad.tolist(), strict=True):
        parts = list(zip(own, failed, strict=True))
        dispersion.take((sum(own), sum(failed)), parts if by_replica else ())
    assert dispersion.phi == pytest.approx(phi, rel=0.15)


def test_slow_changes_of_load_are_no_clumps() -> None:
    rng, dispersion = np.random.default_rng(2), Dispersion()
    for k in range(1500):
        n = int(rng.poisson(1000 + 800 * math.sin(k / 100)))
        dispersion.take((n, int(rng.binomial(n, 0.02 + 0.015 * math.sin(k / 150)))))
    assert dispersion.phi < 1.15


def test_an_incident_is_forgotten_as_it_lasts() -> None:
    rng, dispersion, seen = np.random.default_rng(3), Dispersion(), []
    for k in range(160):
        n = int(rng.poisson(900))
        dispersion.take((n, int(rng.binomial(n, 0.03 if 60 <= k < 130 else 0.001))))
        seen.append(dispersion.phi)
    assert max(seen) > 3
    assert seen[125] < 2


def test_while_nothing_is_known_a_look_counts_as_one_event_and_as_more_with_every_split() -> None:
    dispersion = Dispersion()
    assert dispersion.for_look(50) == 50
    assert dispersion.for_look(1) == 1
    for _ in range(200):
        dispersion.take((1000, 1))
    assert dispersion.for_look(50) == pytest.approx(1, abs=0.05)
    assert Dispersion().phi == 1


def test_a_look_is_judged_by_the_looks_before_it_alone() -> None:
    calm, wild = (Comparison("failed", 0.01, MOST, 1.5) for _ in range(2))
    for comparison in (calm, wild):
        for _ in range(10):
            comparison.take((100, 1), (900, 9))
    calm.take((100, 5), (900, 0), [(450, 0), (450, 0)])
    wild.take((100, 5), (900, 0), [(450, 400), (450, 0)])
    assert calm.phi_used == wild.phi_used
    assert calm.log_evidence == wild.log_evidence


# --- Ville's inequality by simulation ----------------------------------------------------------

RUNS, LOOKS = 100, 50


def often(
    seed: int, rates: Callable[[int], tuple[float, float, float]], size: float = 1.0, odds_ratio: float = 1.5
) -> float:
    """Return how often the evidence passes 1/0.05; rates(look) gives the weight and both arms' bad shares."""
    rng, passed = np.random.default_rng(seed), 0
    weights, own, other = (np.array(values) for values in zip(*map(rates, range(LOOKS)), strict=True))
    for _ in range(RUNS):
        n, stable_n = rng.poisson(1000 * weights), rng.poisson(1000 * (1 - weights))
        bad = [int(clumped(rng, n[k], own[k], size)) for k in range(LOOKS)]
        stable_bad = [int(clumped(rng, stable_n[k], other[k], size)) for k in range(LOOKS)]
        comparison, most = Comparison("failed", 0.01, 0.6 * math.log(20), odds_ratio), 0.0
        for k in range(LOOKS):
            comparison.take((int(n[k]), bad[k]), (int(stable_n[k]), stable_bad[k]))
            most = max(most, comparison.log_evidence)
        passed += most >= math.log(20)
    return passed / RUNS


ALLOWED = stats.binom.ppf(0.999, RUNS, 0.05) / RUNS


@pytest.mark.parametrize(
    ("rates", "size", "odds_ratio"),
    [
        (lambda k: (0.1, 0.01, 0.01), 1.0, 1.0),
        (lambda k: (0.5, 0.015, 0.0101), 1.0, 1.5),
        (lambda k: (0.1, 0.03, 0.03) if 20 <= k < 40 else (0.1, 0.001, 0.001), 1.0, 1.0),
        (lambda k: (0.1, 0.001, 0.001) if k < 30 else (0.5, 0.004, 0.004), 1.0, 1.0),
        (lambda k: (0.5, 0.01, 0.01), 3.0, 1.0),
        (lambda k: (0.5, 0.01, 0.01), 10.0, 1.0),
    ],
    ids=["equal", "boundary", "shared incident", "weight change", "clumps of 3", "clumps of 10"],
)
def test_a_canary_that_is_no_worse_than_allowed_passes_no_more_often_than_alpha(
    rates: Callable[[int], tuple[float, float, float]], size: float, odds_ratio: float
) -> None:
    assert often(4, rates, size, odds_ratio) <= ALLOWED


# --- the proof of an advance -------------------------------------------------------------------


@few
@given(st.integers(1, 12), st.integers(1, 12), share, share, st.floats(0.005, 0.3), st.floats(0.001, 0.6))
def test_one_look_of_a_proof_is_fair_at_every_null_by_exact_enumeration(
    n: int, stable_n: int, own: float, other: float, excess: float, stable_share: float
) -> None:
    for beyond in (0.0, 0.05):
        canary_share = stable_share + excess + beyond
        if canary_share >= 1:
            continue
        mean = sum(
            stats.binom.pmf(bad, n, canary_share)
            * stats.binom.pmf(stable_bad, stable_n, stable_share)
            * math.exp(two_arm_ratio((n, bad), (stable_n, stable_bad), own, other, excess))
            for bad in range(n + 1)
            for stable_bad in range(stable_n + 1)
        )
        assert mean <= 1 + 1e-7


@few
@given(st.integers(1, 500), st.integers(1, 500), share, share, st.floats(0.01, 0.3), st.integers(0, 30))
def test_the_nearest_null_equals_a_numerical_minimum(
    n: int, stable_n: int, own: float, other: float, excess: float, bad: int
) -> None:
    bad = min(bad, n)

    def divergence(p: float) -> float:
        def kl(q: float, r: float) -> float:
            return q * math.log(q / r) + (1 - q) * math.log((1 - q) / (1 - r))

        return n * kl(own, p + excess) + stable_n * kl(other, p)

    if own >= other + excess:
        assert two_arm_ratio((n, bad), (stable_n, 0), own, other, excess) == 0
        return
    inside = (1e-12, 1 - excess - 1e-12)
    p = optimize.minimize_scalar(divergence, bounds=inside, method="bounded", options={"xatol": 1e-13}).x
    expected = (
        stats.binom.logpmf(bad, n, own)
        - stats.binom.logpmf(bad, n, p + excess)
        + stats.binom.logpmf(0, stable_n, other)
        - stats.binom.logpmf(0, stable_n, p)
    )
    assert two_arm_ratio((n, bad), (stable_n, 0), own, other, excess) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_against_a_limit_it_is_the_binomial_likelihood_ratio() -> None:
    expected = stats.binom.logpmf(3, 200, 0.01) - stats.binom.logpmf(3, 200, 0.05)
    assert one_arm_ratio((200, 3), 0.01, 0.05) == pytest.approx(expected)
    assert one_arm_ratio((200, 3), 0.06, 0.05) == 0


def test_a_canary_at_its_margin_is_proved_better_no_more_often_than_alpha() -> None:
    rng, runs, passed = np.random.default_rng(8), 200, 0
    for _ in range(runs):
        proof, most = Proof(0.02), 0.0
        for k in range(40):
            # An incident in between, and stable's share moves: the excess is the margin all along.
            base = 0.05 if 10 <= k < 20 else 0.01
            n, stable_n = int(rng.poisson(100)), int(rng.poisson(300))
            bad, stable_bad = int(rng.binomial(n, base + 0.02)), int(rng.binomial(stable_n, base))
            proof.take((n, bad), (stable_n, stable_bad))
            most = max(most, proof.log_evidence)
        passed += most >= math.log(20)
    assert passed <= stats.binom.ppf(0.999, runs, 0.05)


def test_a_healthy_canary_needs_fewer_requests_than_two_separate_bounds_do() -> None:
    proof, n = Proof(0.005), 0
    while proof.log_evidence < math.log(20):
        n += 10
        proof.take((10, 0), (90, 0))
    assert seq.upper_bound(n, 0, 0.025) > 0.005
    assert n < 800


def test_clumps_make_a_proof_take_longer() -> None:
    single, clumps = Proof(0.01), Proof(0.01)
    single.take((1000, 0), (1000, 0))
    clumps.take((1000, 0), (1000, 0), phi=4.0)
    assert clumps.log_evidence == pytest.approx(single.log_evidence / 4)


# --- carried to the next stage -----------------------------------------------------------------


def history(comparison: Comparison, looks: Sequence[tuple[int, int]]) -> Comparison:
    for bad, stable_bad in looks:
        comparison.take((100, bad), (900, stable_bad))
    return comparison


def test_evidence_and_dispersion_go_on_and_the_proof_begins_anew() -> None:
    first = history(Comparison("failed", 0.01, MOST, 1.5), [(1, 9), (3, 8), (2, 20)])
    carried = json.loads(json.dumps({"log_evidence": 0.0, "log_peak": 0.0, "comparisons": [first.carried()]}))
    second = Comparison("failed", 0.01, MOST, 1.5)
    second.carry(carried)
    assert second.log_evidence == pytest.approx(first.log_evidence)
    assert second.dispersion.phi == first.dispersion.phi
    assert second.canary == (0, 0)
    assert second.proof.log_evidence == 0
    assert second.before == (2700, 37)


def test_where_stables_place_is_taken_by_an_objective_the_capital_is_bet_anew() -> None:
    first = history(Comparison("failed", 0.01, MOST, 1.5), [(5, 1)] * 5)
    carried = {"log_evidence": 1.25, "log_peak": 2.0, "comparisons": [first.carried()]}
    second = Comparison("failed", 0.01, MOST, limit=0.02)
    second.carry(carried)
    assert second.log_evidence == pytest.approx(1.25)
    assert second.wealth.peak == 2.0
    assert second.dispersion.splits == first.dispersion.splits

"""The gates' tests equal independent libraries on special cases: ville and savvi, for tests only."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import roots_jacobi
from ville import BernoulliCS
from ville.evalues import combine, e_to_p

from model_release.gates import sequential


def savvi_multinomial() -> Any:
    """The test of savvi, without the optimiser, tables and plots that it needs for what is not compared here."""
    absent = ("cvxpy", "matplotlib", "matplotlib.pyplot", "py_markdown_table", "py_markdown_table.markdown_table")
    with patch.dict(sys.modules, {name: MagicMock() for name in absent}):
        return importlib.import_module("savvi.multinomial").Multinomial


MULTINOMIAL = savvi_multinomial()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_shares_bounds_are_villes_beta_mixture(bad: list[bool], alpha: float) -> None:
    usual = sequential._MIXTURE
    sequential._MIXTURE = ((1.0, 0.5, 50.0),)  # type: ignore[misc, assignment]
    try:
        own = [bound(len(bad), sum(bad), alpha) for bound in (sequential.lower_bound, sequential.upper_bound)]
    finally:
        sequential._MIXTURE = usual
    theirs = BernoulliCS(alpha, prior=(0.5, 50.0), intersect=False)
    theirs.update(np.array(bad, float))
    assert own == pytest.approx([float(theirs.lower_[-1]), float(theirs.upper_[-1])], abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=6),
    st.sampled_from([(100, 900), (500, 500), (30, 70)]),
    st.sampled_from([1.0, 1.5]),
)
def test_two_arms_are_savvis_multinomial_where_every_look_has_the_same_requests(
    looks: list[tuple[int, int]], requests: tuple[int, int], odds_ratio: float
) -> None:
    """Its Bayes factor is the mean of our likelihood ratios over a Beta prior, which Gauss-Jacobi sums exactly."""
    n, other = requests
    share = odds_ratio * n / (odds_ratio * n + other)
    theta, k = np.array([share, 1 - share]), 10.0
    theirs = MULTINOMIAL(0.05, np.array([share, 1.0 - share]), k)

    nodes, weights = roots_jacobi(64, k * theta[1] - 1, k * theta[0] - 1)
    shares = (1 + nodes) / 2
    effects = (shares / (1 - shares) * other / (odds_ratio * n)).tolist()
    state = (0.0,) * len(effects)
    usual = sequential.EFFECTS, sequential._LOG_EFFECTS
    sequential.EFFECTS, sequential._LOG_EFFECTS = tuple(effects), tuple(map(math.log, effects))  # type: ignore[misc, assignment]
    try:
        for bad, stable_bad in looks:
            theirs.update(np.array([bad, stable_bad]))
            state = sequential.two_arms(state, (n, bad), (other, stable_bad), odds_ratio)
    finally:
        sequential.EFFECTS, sequential._LOG_EFFECTS = usual
    assert sequential.log_mean(state, weights.tolist()) == pytest.approx(math.log(theirs.odds), abs=1e-6)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=6).flatmap(
        lambda logs: st.tuples(st.just(logs), st.lists(st.floats(0.1, 1), min_size=len(logs), max_size=len(logs)))
    )
)
def test_gates_are_combined_as_villes_weighted_mean_and_its_p_value(given_: tuple[list[float], list[float]]) -> None:
    logs, weights = given_
    mean = combine(np.exp(logs), weights=np.array(weights))
    assert math.exp(sequential.log_mean(logs, weights)) == pytest.approx(float(mean))
    assert float(e_to_p(mean)) == pytest.approx(min(1.0, math.exp(-sequential.log_mean(logs, weights))))

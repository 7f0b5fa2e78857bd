"""make show-gates: it measures what it says, and it says when something does not hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from model_release.gates import sequential as seq
from sandbox.show_gates import latency, rivals
from sandbox.show_gates.measure import Row, errors
from sandbox.show_gates.page import failures, most_by_chance, page
from sandbox.show_gates.traffic import CELLS, HARMFUL, HARMLESS, LOOKS

ROW = Row("errors", "equal", str(CELLS[0]), "judge", True, 300, 0.0, None)


def test_a_false_rollback_beyond_alpha_does_not_hold() -> None:
    assert failures([replace(ROW, share=0.01)]) == []
    assert "rolled back falsely" in failures([replace(ROW, share=0.1)])[0]
    assert failures([replace(ROW, share=0.1, rule="Flagger-like")]) == []
    assert "**FAILED**" in page([ROW], ["it"])


def test_a_rollback_slower_than_the_reference_does_not_hold() -> None:
    judge = replace(ROW, harmless=False, share=1.0, mean_seconds=60.0)
    assert failures([judge, replace(judge, rule="reference", mean_seconds=57.0)]) == []
    assert "to rollback on average" in failures([judge, replace(judge, rule="reference", mean_seconds=40.0)])[0]
    one_look = replace(judge, mean_seconds=7.0)
    assert failures([one_look, replace(judge, rule="reference", mean_seconds=5.0)]) == []


def test_an_advance_at_the_margin_beyond_alpha_does_not_hold() -> None:
    row = replace(ROW, group="advance", scenario="0.1 -> 0.6 % (at the margin)", harmless=False, share=0.2)
    assert "at the margin or beyond" in failures([row])[0]
    assert failures([replace(row, share=0.05)]) == []


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_chance_is_allowed_about_three_standard_deviations(alpha: float) -> None:
    assert stats.binom.sf(most_by_chance(300, alpha), 300, alpha) < 0.003


def test_the_reference_equals_the_likelihood_ratio_of_one_effect_after_another() -> None:
    rng = np.random.default_rng(1)
    traffic = HARMFUL[1].draw(rng, CELLS[2], 3)
    logs = rivals.log_evidence(traffic.n, traffic.bad, traffic.stable_n, traffic.stable_bad, 1.5)
    for run in range(3):
        ratio = np.zeros(8)
        for k in range(LOOKS):
            n, bad, other, every = (
                int(each[run, k])
                for each in (traffic.n, traffic.bad, traffic.stable_n, traffic.bad + traffic.stable_bad)
            )
            for place, effect in enumerate((1.25, 1.5, 2, 3, 5, 10, 20, 50)):
                shifted, null = (odds * n / (odds * n + other) for odds in (1.5 * effect, 1.5))
                ratio[place] += stats.binom.logpmf(bad, every, shifted) - stats.binom.logpmf(bad, every, null)
        assert logs[run, -1] == pytest.approx(seq.log_mean(ratio.tolist()))


def test_harmless_traffic_is_harmless_and_every_rule_is_shown_the_same() -> None:
    rng = np.random.default_rng(2)
    for scenario in HARMLESS:
        traffic = scenario.draw(rng, CELLS[3], 40)
        shares = traffic.bad.sum() / traffic.n.sum(), traffic.stable_bad.sum() / traffic.stable_n.sum()
        assert shares[0] <= 1.5 * shares[1] * 1.15, scenario.name
    rows = errors(HARMLESS[0], CELLS[0], 4, seed=1)
    assert {row.rule for row in rows} >= {"judge", "judge, cold", "reference", "Flagger-like", "Kayenta-like"}


def test_slowdowns_move_the_quantiles_that_they_name() -> None:
    p99_ms = latency.BOUNDS_MS[2]
    slower = latency.Slowdown("", 1.5, tail=True)
    assert slower._below(1.5 * p99_ms) == pytest.approx(0.99, abs=0.001)
    assert slower._below(latency.BOUNDS_MS[0]) == latency.Slowdown("", 1.0)._below(latency.BOUNDS_MS[0])
    assert latency.Slowdown("", 2.0)._below(2 * latency.MEDIAN_MS) == pytest.approx(0.5)

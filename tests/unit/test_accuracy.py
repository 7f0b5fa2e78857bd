"""The paired test of accuracy: against published intervals, exact error rates, and what a proof makes of it."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm

from model_release.errors import AccuracyNotProven, SamplesUnusable
from model_release.parity import StableVersion, accuracy
from model_release.parity.report import PYTORCH
from tests.unit.parity_graphs import failures, graph, prove, spec

Z95 = norm.ppf(0.95)


def interval(gained: int, lost: int, n: int, alpha: float) -> tuple[float, float]:
    return accuracy.lower_bound(gained, lost, n, alpha), -accuracy.lower_bound(lost, gained, n, alpha)


# Bentur et al. 2009, airway hyper-responsiveness (1, 1, 7, 12), 95 %, in Fagerland, Lydersen and Laake, "Recommended
# tests and confidence intervals for paired binomial proportions", Statistics in Medicine 33 (2014), table VI;
# and scoreci.mp(25, 28, 618, 0.90) of the R package PropCIs.
@pytest.mark.parametrize(
    ("gained", "lost", "n", "alpha", "low", "high", "digits"),
    [(1, 7, 21, 0.025, -0.517, -0.026, 3), (28, 25, 618, 0.05, -0.0148, 0.0247, 4)],
)
def test_the_interval_is_tangos_as_published(
    gained: int, lost: int, n: int, alpha: float, low: float, high: float, digits: int
) -> None:
    assert tuple(round(bound, digits) for bound in interval(gained, lost, n, alpha)) == (low, high)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 5, 40), (0, 4, 30), (7, 0, 25), (20, 21, 50)])
def test_the_closed_form_is_the_constrained_maximum_likelihood(gained: int, lost: int, n: int) -> None:
    """The score with the share of lost pairs maximised numerically is the normal quantile at the bound."""
    bound = accuracy.lower_bound(gained, lost, n, 0.05)
    low, high = max(0.0, -bound), (1 - bound) / 2

    def unlikely(share_lost: float) -> float:
        shares = (share_lost + bound, share_lost, 1 - 2 * share_lost - bound)
        counts = (gained, lost, n - gained - lost)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count)

    found = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * found + bound - bound**2)
    assert (gained - lost - n * bound) / math.sqrt(variance) == pytest.approx(Z95, abs=1e-3)


@given(st.integers(1, 500), st.data())
def test_bounds_hold_the_difference_between_them_and_turn_with_the_sides(n: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = interval(gained, lost, n, 0.05)
    assert -1 <= low <= (gained - lost) / n + 1e-12
    assert (gained - lost) / n - 1e-12 <= high <= 1
    if lost < n - gained:
        assert accuracy.lower_bound(gained, lost + 1, n, 0.05) <= low + 1e-12


@pytest.mark.parametrize(("n", "margin"), [(40, 0.05), (100, 0.02), (150, 0.1)])
def test_an_inferior_version_passes_at_most_as_often_as_alpha_allows(n: int, margin: float) -> None:
    """Exactly, over every outcome: a version worse by the margin passes in 5 % of all golden sets, at most 6 %."""
    passes = {
        (gained, lost)
        for gained, lost in product(range(n + 1), repeat=2)
        if gained + lost <= n and accuracy._score(gained, lost, n, -margin) > Z95
    }
    assert passes
    for share_lost in (margin, margin + 0.03, margin + 0.1, margin + 0.25):
        share_gained = share_lost - margin
        chance = 0.0
        for lost in range(n + 1):
            of_lost = binom.pmf(lost, n, share_lost)
            rest = binom.pmf(np.arange(n - lost + 1), n - lost, share_gained / (1 - share_lost))
            chance += of_lost * sum(rest[gained] for gained in range(n - lost + 1) if (gained, lost) in passes)
        assert chance <= 0.06


def test_equal_versions_pass_with_the_samples_that_were_named() -> None:
    for discordance, margin in ((0.0, 0.02), (0.03, 0.02), (0.2, 0.05)):
        needed = accuracy.needed_samples(discordance, margin, 0.05)
        assert needed is not None
        half = discordance / 2
        assert accuracy.lower_bound(half * needed, half * needed, needed, 0.05) > -margin
        fewer = needed - 1
        assert accuracy.lower_bound(half * fewer, half * fewer, fewer, 0.05) <= -margin
    assert accuracy.needed_samples(0.0, 0.02, 0.05) == math.ceil(Z95**2 * 0.98 / 0.02)
    assert accuracy.needed_samples(0.1, 0.0, 0.05) is None


def right(n: int, wrong: int, start: int = 0) -> Any:
    answers = np.ones(n, np.bool_)
    answers[start : start + wrong] = False
    return answers


def compared(this: Any, other: Any, margin: float = 0.02, against: str = "stable's version 1") -> Any:
    return accuracy.paired(this, other, against=against, margin=margin, alpha=0.05)


def test_pairs_are_counted_by_sample() -> None:
    found = compared(right(1000, 10), right(1000, 6, start=8))
    assert (found.only_this_right, found.only_other_right) == (4, 8)
    assert found.difference == pytest.approx(-0.004)
    assert found.other_accuracy == 0.994
    assert found.non_inferior
    assert found.needed_samples is None


def test_the_same_answers_pass_only_on_a_set_that_is_large_enough() -> None:
    assert compared(right(133, 3), right(133, 3)).non_inferior
    small = compared(right(132, 3), right(132, 3))
    assert (small.non_inferior, small.needed_samples) == (False, 133)
    assert compared(right(5, 1), right(5, 1), against=PYTORCH).non_inferior
    assert not compared(right(5, 2), right(5, 1), against=PYTORCH).non_inferior


def test_extremes_have_a_verdict() -> None:
    worst = compared(right(200, 200), right(200, 0))
    assert (worst.difference, worst.lower_bound, worst.non_inferior) == (-1, pytest.approx(-1), False)
    assert compared(right(200, 0), right(200, 200)).non_inferior
    both_wrong = compared(right(200, 200), right(200, 200))
    assert (both_wrong.other_accuracy, both_wrong.non_inferior) == (0, True)
    assert not compared(right(1, 0), right(1, 0)).non_inferior
    assert not compared(right(1000, 0), right(1000, 0), margin=0).non_inferior
    assert compared(right(1000, 0), right(1000, 20), margin=0).non_inferior


def test_answers_with_nan_are_wrong_and_vectors_are_needed() -> None:
    made = spec(accuracy={"golden_set": "file:///golden.npz"})
    answers = np.array([[0.0, 1.0], [np.nan, 1.0], [1.0, 0.0]], np.float32)
    assert accuracy.right_answers(made, answers, np.array([1, 0, 1])).tolist() == [True, False, False]
    with pytest.raises(SamplesUnusable, match=r"shape \[4, 2\], and top1 needs one value for each class"):
        accuracy.right_answers(made, np.zeros((3, 4, 2)), np.zeros(3, np.int64))


# --- in a proof ---------------------------------------------------------------------------------

GOLDEN = {"x": np.eye(3, dtype=np.float32)[np.arange(300) % 3], "label": np.arange(300) % 3}
IDENTITY = "y = Identity (x)"
REVERSED = "y = Neg (x)"


def asking(**accuracy: Any) -> Any:
    return spec(accuracy={"golden_set": "file:///golden.npz", **accuracy})


def proved(folder: Path, made: Any, function: Any = lambda x: x, body: str = IDENTITY, **more: Any) -> Any:
    (folder / "this").mkdir(exist_ok=True)
    return prove(made, function, graph(folder / "this", body), **more)


def stable(folder: Path, body: str, made: Any = None) -> StableVersion:
    (folder / "stable").mkdir(exist_ok=True)
    return StableVersion(7, made or asking(), graph(folder / "stable", body))


def test_a_version_as_good_as_stable_passes_with_both_comparisons(tmp_path: Path) -> None:
    report = proved(tmp_path, asking(), golden=GOLDEN, stable=stable(tmp_path, IDENTITY))
    assert report.passed
    assert report.accuracy.accuracy == 1
    assert [found.against for found in report.accuracy.comparisons] == [PYTORCH, "stable's version 7"]
    assert report.summary()["accuracy"] == 1


def test_a_version_worse_than_stable_is_refused_with_both_accuracies(tmp_path: Path) -> None:
    report = proved(
        tmp_path, asking(), lambda x: -x, REVERSED, golden=GOLDEN, stable=stable(tmp_path, IDENTITY), version=8
    )
    assert failures(report) == ["AccuracyNotProven"]
    with pytest.raises(AccuracyNotProven, match=r"7 1\.0000: with 95 % confidence it loses up to 1\.0000, allowed"):
        report.raise_for_failure()
    assert report.failures[0].message.startswith(
        "toy version 8 answers 0.0000 of the 300 golden samples rightly on cpu"
    )
    assert report.failures[0].message.endswith("On this set alone it is worse by that much.")


@pytest.mark.parametrize(
    ("lost", "n", "says"),
    [
        (3, 100, "On this set alone it is worse by that much"),
        (2, 133, "The golden set is small: with 192 samples"),
        (15, 1000, "large enough for two equally good versions: on it, this one does worse"),
    ],
)
def test_the_sentence_tells_a_small_set_from_a_worse_version(lost: int, n: int, says: str) -> None:
    made = asking()
    report = accuracy.report_of(made, right(n, lost), {"stable's version 7": right(n, 0)})
    [error] = accuracy.failures_of("toy", 8, report, "bench")
    assert says in str(error)


def test_a_golden_set_that_is_too_small_says_how_many_are_needed(tmp_path: Path) -> None:
    few = {name: array[:30] for name, array in GOLDEN.items()}
    report = proved(tmp_path, asking(), golden=few, stable=stable(tmp_path, IDENTITY))
    assert failures(report) == ["AccuracyNotProven"]
    assert "with 133 samples two equally good versions" in report.failures[0].message
    assert proved(tmp_path, asking(), golden=few).passed


def test_too_few_right_answers_fail_by_themselves(tmp_path: Path) -> None:
    wrong = {**GOLDEN, "label": np.where(np.arange(300) < 30, 5, GOLDEN["label"])}
    report = proved(tmp_path, asking(minimum=0.95), golden=wrong)
    assert failures(report) == ["AccuracyTooLow"]
    assert "answers 0.9000 of the golden set rightly on cpu, below the allowed 0.9500" in report.failures[0].message


def test_an_export_that_answers_otherwise_loses_against_pytorch_as_well(tmp_path: Path) -> None:
    report = proved(tmp_path, asking(), body=REVERSED, golden=GOLDEN)
    assert failures(report) == ["ParityFailed", "AccuracyNotProven"]
    assert "pytorch 1.0000" in report.failures[1].message


def test_margin_zero_says_that_only_a_better_version_passes(tmp_path: Path) -> None:
    report = proved(tmp_path, asking(margin=0), golden=GOLDEN, stable=stable(tmp_path, IDENTITY))
    assert "With a margin of 0 only a better version passes" in report.failures[0].message


def test_stable_may_take_fewer_inputs_but_not_others(tmp_path: Path) -> None:
    two = [{"name": name, "dtype": "float32", "shape": [3]} for name in ("x", "z")]
    both = graph(tmp_path, "y = Add (x, z)", inputs="float[batch,3] x, float[batch,3] z")

    class Adds(torch.nn.Module):
        def forward(self, x: Any, z: Any) -> Any:
            return x + z

    golden = {**GOLDEN, "z": np.zeros((300, 3), np.float32)}
    made = spec(inputs=two, accuracy={"golden_set": "file:///golden.npz"})
    assert prove(made, Adds(), both, golden=golden, stable=stable(tmp_path, IDENTITY)).passed
    report = proved(tmp_path, asking(), golden=GOLDEN, stable=StableVersion(6, made, both))
    assert failures(report) == ["StableUnusable"]
    assert "its inputs ['z'] are not among the samples" in report.failures[0].message


@pytest.mark.parametrize(("named", "accuracy"), [(None, 1), ("w", 0)])
def test_stable_is_judged_by_the_output_that_its_own_spec_names(
    tmp_path: Path, named: str | None, accuracy: float
) -> None:
    outputs = [{"name": name, "dtype": "float32", "shape": [3]} for name in ("w", "y")]
    own = spec(outputs=outputs, accuracy={"golden_set": "file:///golden.npz", "output": named})
    (tmp_path / "stable").mkdir()
    path = graph(tmp_path / "stable", "w = Neg (x)\n y = Identity (x)", "float[batch,3] w, float[batch,3] y")
    report = proved(tmp_path, asking(), golden=GOLDEN, stable=StableVersion(7, own, path))
    assert report.accuracy.comparisons[1].other_accuracy == accuracy


def test_a_stable_file_that_does_not_run_stops_the_release_by_name(tmp_path: Path) -> None:
    report = proved(tmp_path, asking(), golden=GOLDEN, stable=stable(tmp_path, "y = Nonsense (x)"))
    assert failures(report) == ["StableUnusable"]
    assert "version 7 of toy, which is stable, cannot be asked for accuracy" in report.failures[0].message


def test_without_batching_each_golden_sample_is_asked_for_alone(tmp_path: Path) -> None:
    centred = "k = Constant <value = int64[1] {0}> ()\n m = ReduceMean <keepdims = 1> (x, k)\n y = Sub (x, m)"
    made = spec(serving={"max_batch_size": 0}, accuracy={"golden_set": "file:///golden.npz"})
    golden = {"x": GOLDEN["x"], "label": np.zeros(300, np.int64)}
    report = proved(tmp_path, made, lambda x: x - x.mean(0, keepdim=True), centred, golden=golden)
    # Alone every answer is zero, of which the first class is the largest.
    assert report.passed
    assert report.accuracy.accuracy == 1

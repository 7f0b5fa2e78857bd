"""
Accuracy on a golden set, and whether it is as good as another version's: a paired test of non-inferiority.

Both versions answer the same samples, so that only the samples which one of them alone gets right say anything about
the difference. The bound is Tango's score interval for the difference of paired proportions: it holds its level for
few and for no discordant pairs, where Wald's interval has no width.
T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
Statistics in Medicine 17 (1998) 891-908.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.errors import AccuracyNotProven, AccuracyTooLow, SamplesUnusable
from model_release.parity.report import PYTORCH, AccuracyComparison, AccuracyReport
from model_release.spec import Accuracy, ModelSpec

Right = npt.NDArray[np.bool_]
_MOST_SAMPLES = 10**9


def right_answers(spec: ModelSpec, answers: npt.NDArray[Any], label: npt.NDArray[Any]) -> Right:
    """
    Return for each sample [n] whether the place of the largest of its answers [n, classes] is its label [n].

    An answer with NaN is wrong. Raises SamplesUnusable when the output has no value for each class.
    """
    accuracy = _asked(spec)
    if answers.ndim != 2 or answers.shape[1] < 2:
        why = f"a sample's output has the shape {list(answers.shape[1:])}, and top1 needs one value for each class"
        raise SamplesUnusable(accuracy.golden_set, why)
    known = ~np.isnan(answers).any(axis=1) if answers.dtype.kind == "f" else np.ones(len(answers), np.bool_)
    return np.asarray(known & (answers.argmax(axis=1) == label))


def output_of(spec: ModelSpec) -> str:
    """Return the output whose largest value names the class."""
    return _asked(spec).output or spec.outputs[0].name


def _asked(spec: ModelSpec) -> Accuracy:
    if spec.accuracy is None:
        message = f"{spec.name} has no accuracy section"
        raise ValueError(message)
    return spec.accuracy


def paired(this: Right, other: Right, *, against: str, margin: float, alpha: float) -> AccuracyComparison:
    """
    Compare right answers to the same samples, each [n] with n > 0.

    Non-inferior when the lower bound of the difference, one-sided at the level 1 - alpha, is above -margin. Against
    PyTorch, whose weights are the same and which parity holds it to, it is enough that no right answer is lost.
    """
    n = len(this)
    gained, lost = int((this & ~other).sum()), int((other & ~this).sum())
    bound = lower_bound(gained, lost, n, alpha)
    holds = bound > -margin or (against == PYTORCH and lost == 0)
    return AccuracyComparison(
        against=against,
        other_accuracy=float(other.mean()),
        only_this_right=gained,
        only_other_right=lost,
        difference=(gained - lost) / n,
        lower_bound=bound,
        margin=margin,
        alpha=alpha,
        non_inferior=holds,
        needed_samples=None if holds else needed_samples((gained + lost) / n, margin, alpha),
    )


def report_of(spec: ModelSpec, this: Right, others: dict[str, Right]) -> AccuracyReport:
    """Return the report of right answers [n], compared with each of the others by name."""
    asked = _asked(spec)
    return AccuracyReport(
        golden_set=asked.golden_set,
        samples=len(this),
        accuracy=float(this.mean()),
        minimum=asked.minimum,
        comparisons=[
            paired(this, other, against=name, margin=asked.margin, alpha=asked.alpha) for name, other in others.items()
        ],
    )


def failures_of(model: str, version: int | None, report: AccuracyReport, where: str) -> list[AccuracyTooLow]:
    """Return why the accuracy is not enough; `where` is what answered, such as an execution provider or bench."""
    found: list[AccuracyTooLow] = []
    if report.accuracy < report.minimum:
        found.append(AccuracyTooLow(model, version, report.accuracy, report.minimum, where))
    found += [
        AccuracyNotProven(
            model,
            version,
            where,
            accuracies=(report.accuracy, comparison.other_accuracy),
            against=comparison.against,
            samples=report.samples,
            lower_bound=comparison.lower_bound,
            margin=comparison.margin,
            alpha=comparison.alpha,
            needed=comparison.needed_samples,
        )
        for comparison in report.comparisons
        if not comparison.non_inferior
    ]
    return found


def lower_bound(gained: float, lost: float, n: float, alpha: float) -> float:
    """
    Return Tango's lower confidence bound of (gained - lost) / n, one-sided at the level 1 - alpha.

    `gained` of n pairs are right on this side alone, `lost` on the other alone. The bound is the difference that the
    score test rejects at exactly alpha; the score falls with the difference, so that halving finds it.
    """
    z = NormalDist().inv_cdf(1 - alpha)
    low, high = -1.0, (gained - lost) / n
    for _ in range(60):
        middle = (low + high) / 2
        if _score(gained, lost, n, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(gained: float, lost: float, n: float, difference: float) -> float:
    """Return Tango's score statistic: the distance from a difference in standard errors, estimated under it."""
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * share_lost + difference * (1 - difference))
    distance = gained - lost - n * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def needed_samples(discordance: float, margin: float, alpha: float) -> int | None:
    """
    Return the fewest samples whose lower bound passes -margin with no difference and this share of discordant pairs.

    None where no number does: with a margin of 0.
    """

    def enough(n: float) -> bool:
        half = discordance * n / 2
        return lower_bound(half, half, n, alpha) > -margin

    if margin <= 0 or not enough(_MOST_SAMPLES):
        return None
    low, high = 0, 1
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

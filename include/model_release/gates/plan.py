"""How many requests a stage needs, said before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from model_release.gates.gate import P99_SHARE
from model_release.gates.sequential import lower_bound, upper_bound
from model_release.spec import Canary, ErrorRateGate, LatencyGate

_MOST = 10_000_000


def needed_requests(canary: Canary, stage: int, *, first_release: bool = False) -> int:
    """
    Return the canary's requests after which a healthy version usually advances from a stage.

    Healthy: no errors on either arm, and as many requests slower than stable's p99 as stable has itself, with chance
    one standard deviation against it. At least min_requests; 10 million when no number would do.
    """
    deciding = [gate for gate in canary.gates if not gate.dry_run]
    control = None if first_release or stage == 100 else (100 - stage) / stage
    needed = [_first(partial(_proved, gate, canary.alpha_advance, control)) for gate in deciding]
    return max([canary.min_requests, *needed])


def _proved(gate: ErrorRateGate | LatencyGate, alpha: float, control: float | None, n: int) -> bool:
    """Whether a gate proves a healthy canary with n requests; `control` is how many stable has for each of them."""
    if isinstance(gate, ErrorRateGate):
        if control is None:
            return upper_bound(n, 0, alpha) - gate.objective < gate.margin
        return upper_bound(n, 0, alpha / 2) < gate.margin
    if control is None:
        return upper_bound(n, 0, alpha) - P99_SHARE < gate.margin
    slow, stable_n = P99_SHARE * n, n * control
    upper = upper_bound(n, min(n, slow + math.sqrt(slow)), alpha / 2)
    return upper - lower_bound(stable_n, P99_SHARE * stable_n, alpha / 2) < gate.margin


def _first(true: Callable[[int], bool]) -> int:
    """Return the least number for which a condition that stays true is true, by doubling and halving."""
    high = 1
    while not true(high) and high < _MOST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle, high)
    return min(high, _MOST)

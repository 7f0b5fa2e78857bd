"""How many requests a stage needs, said before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from model_release.gates.gate import P99_SHARE
from model_release.gates.noninferiority import Proof
from model_release.spec import Canary, ErrorRateGate, LatencyGate

_MOST = 10_000_000
_LOOKS = 20


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
    share = 0.0 if isinstance(gate, ErrorRateGate) else P99_SHARE
    limit = None if control is not None else gate.objective if isinstance(gate, ErrorRateGate) else P99_SHARE
    proof = Proof(gate.margin, limit)
    # Against an objective, healthy is below it; a fair share of slow requests is as good as stable's own.
    bad = share * n + math.sqrt(share * n) if control is not None else 0.0
    stable_n = n * (control or 0.0)
    for _ in range(_LOOKS):
        proof.take((n / _LOOKS, bad / _LOOKS), (stable_n / _LOOKS, share * stable_n / _LOOKS))
    return proof.log_evidence >= -math.log(alpha)


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

"""
Other rules on the same traffic. Each returns the seconds to rollback by run, infinite where there is none.

Flagger-like: the canary's failed share of a minute above 1 %, five times in all, acted on a minute later (Flagger's
scheduler). Kayenta-like: Mann-Whitney on one-minute points, 98 % confidence, from the fifth on (Netflix's judge).
Reference: the stratified conditional-binomial mixture without any of the shipped engine's refinements.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sandbox.show_gates.traffic import COARSE_S, Counts, Traffic

Seconds = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64]

_GRID = np.array([1.25, 1.5, 2, 3, 5, 10, 20, 50])
_MINUTE = 60 // COARSE_S
_NORMAL_98 = 2.3263479


def first(passed: npt.NDArray[np.bool_]) -> Seconds:
    """Return when each run passed first."""
    return np.where(passed.any(1), (passed.argmax(1) + 1.0) * COARSE_S, np.inf)


def log_evidence(
    n: Counts, bad: Floats | Counts, stable_n: Counts, stable_bad: Floats | Counts, ratio: float
) -> Floats:
    """Return the reference's log e-value after each look: a uniform mixture over odds ratios, each look a stratum."""
    total = np.zeros((*n.shape, len(_GRID)))
    both = (n > 0) & (stable_n > 0)
    own, other = np.where(both, n, 1), np.where(both, stable_n, 1)
    for place, effect in enumerate(_GRID):
        shift = np.log(ratio * own + other) - np.log(effect * ratio * own + other)
        total[..., place] = np.cumsum(np.where(both, bad * np.log(effect) + (bad + stable_bad) * shift, 0.0), axis=1)
    highest = total.max(-1)
    mean: Floats = highest + np.log(np.exp(total - highest[..., None]).mean(-1))
    return mean


def reference(traffic: Traffic, alpha: float, ratio: float = 1.5, phi: Floats | float = 1.0) -> Seconds:
    """Return when the reference rolls back; phi divides the bad requests."""
    bad, stable_bad = traffic.bad / phi, traffic.stable_bad / phi
    return first(log_evidence(traffic.n, bad, traffic.stable_n, stable_bad, ratio) >= -np.log(alpha))


def reference_by_phi(traffic: Traffic, alpha: float) -> Seconds:
    """Return the same with the dispersion between stable's halves in the 30 minutes before."""
    (n, other), (bad, other_bad) = traffic.before_n, traffic.before_bad
    every, share = bad + other_bad, n / np.maximum(n + other, 1)
    expected = (every * share * (1 - share)).sum(1)
    phi = np.maximum(1, ((bad - every * share) ** 2).sum(1) / np.maximum(expected, 1e-9))
    return reference(traffic, alpha, phi=phi[:, None])


def _minutes(counts: Counts) -> Counts:
    summed: Counts = counts.reshape(len(counts), -1, _MINUTE).sum(2)
    return summed


def flagger(traffic: Traffic) -> Seconds:
    """Return when the Flagger-like rule rolls back."""
    n, bad = _minutes(traffic.n), _minutes(traffic.bad)
    failed = np.cumsum((n == 0) | (bad / np.maximum(n, 1) > 0.01), axis=1) >= 5
    return np.where(failed.any(1), (failed.argmax(1) + 2) * 60.0, np.inf)


def kayenta(traffic: Traffic) -> Seconds:
    """Return when the Kayenta-like rule rolls back, asked every minute from the fifth."""
    shares = [
        _minutes(bad) / np.maximum(_minutes(n), 1)
        for n, bad in ((traffic.n, traffic.bad), (traffic.stable_n, traffic.stable_bad))
    ]
    seconds = np.full(len(traffic.n), np.inf)
    for minutes in range(5, shares[0].shape[1] + 1):
        high = _mann_whitney_high(shares[0][:, :minutes], shares[1][:, :minutes])
        seconds[high & np.isinf(seconds)] = minutes * 60
    return seconds


def _mann_whitney_high(own: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    """Whether the lower end of the shift's interval is above a quarter of the estimated shift."""
    differences = own[:, :, None] - other[:, None, :]
    estimate = np.median(differences.reshape(len(own), -1), axis=1)
    allowed, lowest = 0.25 * np.abs(estimate), own.min(1) - other.max(1)
    unbounded = _z(own, other, lowest) <= _NORMAL_98
    same = (np.sort(own, 1) == np.sort(other, 1)).all(1)
    high: npt.NDArray[np.bool_] = np.where(unbounded, lowest > allowed, _z(own, other, allowed) > _NORMAL_98) & ~same
    return high


def _z(own: Floats, other: Floats, shift: Floats) -> Floats:
    points = own.shape[1]
    moved = own - shift[:, None]
    difference = moved[:, :, None] - other[:, None, :]
    tied = np.abs(difference) <= 1e-15
    excess = ((difference > 1e-15) + 0.5 * tied).sum((1, 2)) - points**2 / 2
    every = np.concatenate([moved, other], axis=1)
    ties = (np.abs(every[:, :, None] - every[:, None, :]) <= 1e-15).sum(2)
    size = 2 * points
    spread = points**2 / 12 * ((size + 1) - (ties.astype(float) ** 2 - 1).sum(1) / (size * (size - 1)))
    z: Floats = (excess - np.sign(excess) * 0.5) / np.sqrt(np.maximum(spread, 1e-12))
    return z

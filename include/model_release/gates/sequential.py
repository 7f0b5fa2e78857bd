"""
Tests that may be read at every look.

An e-process starts at 1 and, while nothing is wrong, has a mean of at most 1 at any time; so it passes 1/alpha with a
chance of at most alpha however often one looks (Ville's inequality). The two-armed one conditions on each look's bad
events: how they fall on the arms is binomial, with a share that only the arms' requests and their odds ratio set. An
incident that strikes both arms, daily load and a change of weight cancel, because each look is a stratum of its own.

Bad events may come in clumps (one crash that fails many requests at once): `phi`, the dispersion, divides them, which
tempers the likelihood ratio. Clumps of equal size phi make that exact; else it is an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

EFFECTS = (1.2, 1.5, 2.2, 4.0, 8.0, 30.0)
"""The odds ratios, beyond the allowed one, that evidence is sought for."""

_LOG_EFFECTS = tuple(map(math.log, EFFECTS))

START = (0.0,) * len(EFFECTS)
"""The state of an e-process before any look: the log of each effect's likelihood ratio."""

# Weight and shape of the Beta mixture behind the confidence bounds: rare events mostly, and a little for any share.
_MIXTURE = ((0.9, 0.5, 50.0), (0.1, 0.5, 0.5))

State = tuple[float, ...]


def two_arms(
    state: State, canary: tuple[float, float], stable: tuple[float, float], odds_ratio: float, phi: float = 1.0
) -> State:
    """
    Add one look, each arm as (requests, bad ones), against "the canary's odds are at most odds_ratio of stable's".

    A look with an empty arm compares nothing and changes nothing.
    """
    (canary_n, canary_bad), (stable_n, stable_bad) = canary, stable
    if not canary_n or not stable_n or not canary_bad + stable_bad:
        return state
    allowed = odds_ratio * canary_n + stable_n
    return tuple(
        log_ratio
        + canary_bad / phi * log_effect
        + (canary_bad + stable_bad) / phi * math.log(allowed / (effect * odds_ratio * canary_n + stable_n))
        for log_ratio, effect, log_effect in zip(state, EFFECTS, _LOG_EFFECTS, strict=True)
    )


def growth(canary_n: float, stable_n: float, share: float, odds_ratio: float) -> State:
    """
    Return the evidence that so many requests may be expected to give against each effect, if it is the true one.

    `share` is stable's share of bad events. The divergence of how bad events would fall on the arms from how they may.
    """
    found = []
    for effect in EFFECTS:
        own = canary_n * min(1.0, share * effect * odds_ratio)
        bad, allowed = own + stable_n * share, odds_ratio * canary_n / (odds_ratio * canary_n + stable_n)
        seen = own / bad if bad else allowed
        rest = 0.0 if seen >= 1 else (1 - seen) * math.log((1 - seen) / (1 - allowed))
        found.append(bad * (seen * math.log(seen / allowed) + rest) if bad else 0.0)
    return tuple(found)


def one_arm(state: State, arm: tuple[float, float], limit: float, phi: float = 1.0) -> State:
    """
    Add one look, as (requests, bad ones), against "the share of bad requests is at most limit".

    phi may depend on the look: only what speaks against the arm is divided by it.
    """
    n, bad = arm
    odds = limit / (1 - limit)
    shares = [odds * effect / (1 + odds * effect) for effect in EFFECTS]
    ratios = (bad * math.log(share / limit) + (n - bad) * math.log((1 - share) / (1 - limit)) for share in shares)
    return tuple(log_ratio + min(ratio, ratio / phi) for log_ratio, ratio in zip(state, ratios, strict=True))


def log_mean(logs: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return the log of the (weighted) mean of numbers given by their logs."""
    weights = weights or [1.0] * len(logs)
    highest = max(logs)
    total = sum(weight * math.exp(log - highest) for log, weight in zip(logs, weights, strict=True))
    return highest + math.log(total / sum(weights))


def upper_bound(n: float, bad: float, alpha: float) -> float:
    """Return a share that the true share of bad requests exceeds with a chance of at most alpha, at any look."""
    return _bound(n, bad, alpha, 1.0)


def lower_bound(n: float, bad: float, alpha: float) -> float:
    """Return a share that the true share of bad requests falls below with a chance of at most alpha, at any look."""
    return _bound(n, bad, alpha, 0.0)


def _bound(n: float, bad: float, alpha: float, end: float) -> float:
    """Find where, between the estimate and `end`, the mixture's likelihood ratio reaches 1/alpha."""
    if n == 0 or bad == n * end:
        return end
    level = _log_mixture(n, bad) + math.log(alpha)
    kept, rejected = bad / n, end
    for _ in range(50):
        middle = (kept + rejected) / 2
        if _log_likelihood(n, bad, middle) < level:
            rejected = middle
        else:
            kept = middle
    return rejected


def _log_mixture(n: float, bad: float) -> float:
    logs = [_log_beta(a + bad, b + n - bad) - _log_beta(a, b) for _, a, b in _MIXTURE]
    return log_mean(logs, [weight for weight, _, _ in _MIXTURE])


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_likelihood(n: float, bad: float, share: float) -> float:
    """With a share that the counts rule out it is minus infinity; halving comes to 1.0 where few are good."""
    good = n - bad
    if (share <= 0 and bad) or (share >= 1 and good):
        return -math.inf
    return (bad * math.log(share) if bad else 0.0) + (good * math.log1p(-share) if good else 0.0)

"""
Bystanders: the other models on the canary's fleet, whose requests must not begin to fail because of a release.

Each is held to its own share of failed requests before the release: an upper bound of that share, and TOLERATED beyond
it. The evidence is the gates' own e-process against a limit, so it may be read at every look; that of several
bystanders is their mean, which is an e-value too. Half of alpha is spent on the bounds, half on the evidence: while
nothing changes for any bystander, the chance of an alarm in the whole release is at most alpha. Latency is told and
judges nothing: it has no bound that a change of the load alone would not break.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_release.gates import sequential
from model_release.gates.comparison import Comparison, Count
from model_release.gates.looks import INFINITE

TOLERATED = 0.005
"""How far a bystander's share of failed requests may rise above what it was."""

LEAST_REQUESTS = 100
"""A bystander that had fewer before the release is not judged: nobody knows what is usual for it."""

_CLUMPS = 3.0
_ONE_LOOK = 0.6


@dataclass(frozen=True)
class Bystander:
    """A model's requests on the canary's fleet, each count as (requests, failed ones)."""

    model: str
    before: Count
    looks: Sequence[Count]

    @property
    def total(self) -> Count:
        """What was counted since the deploy."""
        return sum(n for n, _ in self.looks), sum(bad for _, bad in self.looks)


def suffering(bystanders: Sequence[Bystander], alpha: float) -> str | None:
    """Return which bystander began to fail while the release went on, with both its numbers; None while none did."""
    judged = [each for each in bystanders if each.before[0] >= LEAST_REQUESTS]
    if not judged:
        return None
    share = alpha / 2 / len(judged)
    limits = [_limit(each.before, share) for each in judged]
    logs = [_log_evidence(each, limit, share) for each, limit in zip(judged, limits, strict=True)]
    if sequential.log_mean(logs) < math.log(2 / alpha):
        return None
    worst = max(range(len(judged)), key=lambda place: logs[place])
    (n, bad), (n_before, bad_before) = judged[worst].total, judged[worst].before
    return (
        f"{bad} of {n} requests ({bad / n:.2%}) of {judged[worst].model} failed since the deploy, {bad_before} of "
        f"{n_before} ({bad_before / n_before:.2%}) before it, at most {limits[worst]:.2%} allowed"
    )


def quantile_ms(buckets: Mapping[str, int], share: float) -> float | None:
    """Return the bucket bound (ms) below which at least `share` of the requests lie; None if there is none."""
    wanted = share * buckets.get(INFINITE, 0)
    bounds = sorted((float(bound), count) for bound, count in buckets.items() if bound != INFINITE)
    return next((bound for bound, count in bounds if wanted and count >= wanted), None)


def _limit(before: Count, alpha: float) -> float:
    """Return the share that may fail; how failures clumped before is not known, so some clumps are assumed."""
    bound = sequential.upper_bound(before[0] / _CLUMPS, before[1] / _CLUMPS, alpha)
    return min(bound + TOLERATED, 0.99)


def _log_evidence(bystander: Bystander, limit: float, share: float) -> float:
    """Return the log of the e-value; no single look is worth enough, since that could be one crash."""
    most = -math.log(share) * _ONE_LOOK
    comparison = Comparison("failed", TOLERATED, most, limit=limit, proves=False)
    for look in bystander.looks:
        comparison.take(look, (0, 0))
    return comparison.log_evidence

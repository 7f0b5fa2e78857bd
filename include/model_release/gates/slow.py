"""The gate of latency: the canary's requests are slower than stable's by no more than the spec allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from model_release.gates import latency
from model_release.gates.by_user import ByUser, Told
from model_release.gates.comparison import Comparison
from model_release.gates.looks import Look
from model_release.gates.users import at_risk
from model_release.spec import LatencyGate
from model_release.traffic.router import SlowBound, Window

P99_SHARE = 0.01
"""The share of requests that may be slower than an objective for the p99."""

SAME_ODDS = 1.0
"""What is allowed of users is in the bounds that they are told by (`latency.slow_for_users`)."""


class SlowGate(ByUser):
    """
    The shares of requests slower than some bounds, fixed before they judge anything.

    Given bounds count; else they are read from stable in the looks before, during the warm-up at the least. Without a
    stable the bound is the objective's.
    """

    def __init__(
        self,
        spec: LatencyGate,
        alpha_rollback: float,
        *,
        one_armed: bool,
        bounds_ms: Sequence[float] | None,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, alpha_rollback, carried)
        self.bounds_ms = list(spec.bounds_ms or bounds_ms or [])
        self._slow = spec
        self._one_armed = one_armed
        self._allowed: list[latency.Allowed] = []
        self._slower: list[Comparison] = []
        self._unjudged: list[Look] = []

    def take(self, look: Look, *, warm: bool) -> None:
        """
        Add one look; before the bounds are known it only helps to find them, and how slow requests clump.

        Users are told of from the end of the warm-up on, which may be in this look; a better canary's come later.
        """
        self._take_users(look, SAME_ODDS)
        if warm and not self.comparisons:
            self._fix_bounds(latency.known_bounds(look.canary))
        if not warm or not self.comparisons:
            self.observe(look)
            return
        for comparison, allowed in zip(self._slower, self._allowed, strict=True):
            replicas = [latency.slower(replica, allowed.stable_ms) for replica in look.stable_by_replica]
            canary = partial(latency.slower, bound_ms=allowed.canary_ms)
            stable = partial(latency.slower, bound_ms=allowed.stable_ms)
            strata = [(canary(stratum.canary), stable(stratum.stable)) for stratum in look.strata]
            suspected = [
                (canary(stratum.canary), latency.at_worst(stratum.stable, allowed.stable_ms))
                for stratum in look.compared
            ]
            comparison.take(canary(look.canary), stable(look.stable), replicas, strata, suspected)
        self._note_peak()

    def observe(self, look: Look) -> None:
        """Keep the look for the bounds, and for how stable's slow requests clump."""
        self._unjudged.append(look)

    def _fix_bounds(self, known_ms: Sequence[float]) -> None:
        """Choose what is compared, by what was known before this look."""
        if not known_ms:
            return
        if self._one_armed:
            objective = self._slow.objective.p99_ms
            bound = next((known for known in known_ms if known >= objective), known_ms[-1])
            self.bounds_ms, self._allowed = [bound], [latency.Allowed(bound, bound, 1.0)]
            self._slower.append(
                self._compare(f"took longer than {bound:g} ms", limit=P99_SHARE, key=f"objective {bound:g}")
            )
            return
        before: Mapping[str, int] = {}
        for look in self._unjudged:
            before = latency.pooled(before, look.stable.latency_buckets)
        self.bounds_ms = self.bounds_ms or latency.bounds_from(before) or []
        for place, bound in enumerate(sorted(self.bounds_ms), 1):
            allowed = latency.comparison(bound, self._slow.slower_than, known_ms)
            self._allowed.append(allowed)
            words, last = f"took longer than {_words(allowed)}", len(self.bounds_ms)
            comparison = self._compare(words, of=last, odds_ratio=allowed.odds_ratio, proves=place == last)
            self._slower.append(comparison)
            for look in self._unjudged:
                replicas = [latency.slower(replica, allowed.stable_ms) for replica in look.stable_by_replica]
                comparison.observe(latency.slower(look.stable, allowed.stable_ms), replicas)
        if self.comparisons:
            self._unjudged.clear()
        if self.comparisons and self._carried:
            self._bet_requests_anew(float(self._carried["log_evidence"]))

    def told_of_users(self, look: Look) -> Sequence[Told]:
        """Return who waited too long for the first time, the second and so on, by bound; nobody counts who asked."""
        own, other = look.canary.slow_users, look.stable.slow_users
        shares = at_risk(look.stage)
        if own is None or other is None or self._one_armed or shares is None:
            return []
        windows: Sequence[Sequence[Window]] = look.slow_by_window or [()] * len(look.slow_ms)
        return [
            Told(f"waited longer than {_words(bound)}", shares, canary, stable, lately)
            for bound, canary, stable, lately in zip(look.slow_ms, own, other, windows, strict=True)
        ]

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict, with its bounds (ms) and what they really allow."""
        allowed = [each.to_dict() for each in self._allowed]
        return {
            **super().report(alpha_rollback, alpha_advance),
            "bounds_ms": list(self.bounds_ms),
            "effective_margin": allowed,
        }


def _words(bound: latency.Allowed | SlowBound) -> str:
    if bound.canary_ms == bound.stable_ms:
        return f"{bound.canary_ms:g} ms"
    return f"{bound.canary_ms:g} ms (stable's bound {bound.stable_ms:g} ms)"

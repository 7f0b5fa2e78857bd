"""The gates of a stage: each turns looks into evidence against the canary, and into a proof that it is no worse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_release.gates import latency, sequential
from model_release.gates.looks import Arm, Look
from model_release.spec import ErrorRateGate, LatencyGate

P99_SHARE = 0.01
"""The share of requests that may be slower than an objective for the p99."""

Count = tuple[int, int]
"""Requests, and the bad ones among them."""


@dataclass
class Comparison:
    """
    One kind of bad request over the looks of a stage: the canary's share against stable's, or against `limit`.

    `words` say what is bad, as in "3 of 100 canary requests failed".
    """

    words: str
    odds_ratio: float = 1.0
    limit: float | None = None
    state: sequential.State = sequential.START
    canary: Count = (0, 0)
    stable: Count = (0, 0)

    def take(self, canary: Count, stable: Count) -> None:
        """Add one look."""
        if self.limit is None:
            self.state = sequential.two_arms(self.state, canary, stable, self.odds_ratio)
        else:
            self.state = sequential.one_arm(self.state, canary, self.limit)
        self.canary = (self.canary[0] + canary[0], self.canary[1] + canary[1])
        self.stable = (self.stable[0] + stable[0], self.stable[1] + stable[1])

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return sequential.log_mean(self.state)

    def worst_excess(self, alpha: float) -> float:
        """Return how far the canary's share may still be above stable's, or above the limit."""
        if self.limit is not None:
            return sequential.upper_bound(*self.canary, alpha) - self.limit
        return sequential.upper_bound(*self.canary, alpha / 2) - sequential.lower_bound(*self.stable, alpha / 2)

    def sentence(self) -> str:
        """Say both numbers."""
        (n, bad), (stable_n, stable_bad) = self.canary, self.stable
        seen = f"{bad} of {n} canary requests ({_percent(bad, n)}) {self.words}"
        if self.limit is not None:
            return f"{seen}, objective {self.limit:.2%}"
        return f"{seen}, {stable_bad} of {stable_n} of stable ({_percent(stable_bad, stable_n)})"


class Gate(ABC):
    """A gate of the spec over one stage."""

    def __init__(self, spec: ErrorRateGate | LatencyGate) -> None:
        self.spec = spec
        self.comparisons: list[Comparison] = []

    @abstractmethod
    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; `warm` once the stage's warm-up is over."""

    @property
    def log_evidence(self) -> float:
        """The log of the gate's e-value: the mean over its comparisons, 0 before it has any."""
        if not self.comparisons:
            return 0.0
        return sequential.log_mean([comparison.log_evidence for comparison in self.comparisons])

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict, as JSON values."""
        evidence = math.exp(min(self.log_evidence, 700.0))
        named = {"name": self.spec.name, "kind": self.spec.kind, "dry_run": self.spec.dry_run}
        numbers = {"e_value": evidence, "rollback_at": 1 / alpha_rollback, "margin": self.spec.margin}
        if not self.comparisons:
            waiting = f"{self.spec.name}: not judged yet, stable's own latency is still being read"
            nothing = {"canary": _arm((0, 0)), "stable": _arm((0, 0)), "worst_excess": None}
            return {**named, **nothing, **numbers, "verdict": "inconclusive", "sentence": waiting}
        # An advance is proved on the last comparison, whose bad requests are the rarest.
        shown, excess = self.comparisons[-1], self.comparisons[-1].worst_excess(alpha_advance)
        verdict = "advance" if excess < self.spec.margin else "inconclusive"
        if evidence >= 1 / alpha_rollback:
            verdict, shown = "rollback", max(self.comparisons, key=lambda each: each.log_evidence)
        proof = f"at most {excess * 100:.2f} points above stable, {self.spec.margin * 100:.2f} allowed"
        if shown.limit is not None:
            proof = f"at most {shown.limit + excess:.2%}, {shown.limit + self.spec.margin:.2%} allowed"
        if verdict == "rollback":
            proof = f"evidence {evidence:.3g} against {1 / alpha_rollback:g}"
        return {
            **named,
            "canary": _arm(shown.canary),
            "stable": _arm(shown.stable),
            "objective": shown.limit,
            "worst_excess": excess,
            **numbers,
            "verdict": verdict,
            "sentence": f"{self.spec.name}: {shown.sentence()}; {proof}",
        }


class ErrorGate(Gate):
    """The share of failed requests; they count from the first request on."""

    def __init__(self, spec: ErrorRateGate, *, one_armed: bool) -> None:
        super().__init__(spec)
        limit = spec.objective if one_armed else None
        self.comparisons = [Comparison("failed", spec.odds_ratio, limit)]

    def take(self, look: Look, *, warm: bool) -> None:  # noqa: ARG002 - an error of a cold replica is an error
        """Add one look."""
        canary, stable = look.canary, look.stable
        self.comparisons[0].take((canary.requests, canary.errors), (stable.requests, stable.errors))


class SlowGate(Gate):
    """
    The shares of requests slower than some bounds, fixed before they judge anything.

    Given bounds count; else they are read from stable in the looks before, during the warm-up at the least. Without a
    stable the bound is the objective's.
    """

    def __init__(self, spec: LatencyGate, *, one_armed: bool, bounds_ms: Sequence[float] | None) -> None:
        super().__init__(spec)
        self.bounds_ms = list(spec.bounds_ms or bounds_ms or [])
        self._slow = spec
        self._one_armed = one_armed
        self._pairs: list[tuple[float, float]] = []
        self._stable_before: Mapping[str, int] = {}

    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; before the bounds are known it only helps to find them."""
        if warm and not self.comparisons:
            self._fix_bounds(latency.known_bounds(look.canary))
        if not warm or not self.comparisons:
            self._stable_before = latency.pooled(self._stable_before, look.stable.latency_buckets)
            return
        for comparison, (own, stable) in zip(self.comparisons, self._pairs, strict=True):
            comparison.take(latency.slower(look.canary, own), latency.slower(look.stable, stable))

    def _fix_bounds(self, known_ms: Sequence[float]) -> None:
        """Choose what is compared, by what was known before this look."""
        if not known_ms:
            return
        if self._one_armed:
            objective = self._slow.objective.p99_ms
            bound = next((known for known in known_ms if known >= objective), known_ms[-1])
            self.bounds_ms, self._pairs = [bound], [(bound, bound)]
            self.comparisons = [Comparison(f"took longer than {bound:g} ms", limit=P99_SHARE)]
            return
        self.bounds_ms = self.bounds_ms or latency.bounds_from(self._stable_before) or []
        for bound in sorted(self.bounds_ms):
            own, stable, odds_ratio = latency.comparison(bound, self._slow.slower_than, known_ms)
            self._pairs.append((own, stable))
            words = f"took longer than {own:g} ms"
            if own != stable:
                words += f" (stable's bound {stable:g} ms)"
            self.comparisons.append(Comparison(words, odds_ratio))

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict, with its bounds (ms)."""
        return {**super().report(alpha_rollback, alpha_advance), "bounds_ms": list(self.bounds_ms)}


def _arm(count: Count) -> dict[str, Any]:
    n, bad = count
    return {"n": n, "bad": bad, "estimate": bad / n if n else None}


def _percent(bad: int, n: int) -> str:
    return f"{bad / n:.2%}" if n else "no data"


def is_empty(look: Look, *, one_armed: bool) -> str | None:
    """Return why a look says nothing, or None."""
    if look.note:
        return look.note
    arms: list[tuple[str, Arm]] = [("canary", look.canary)]
    if not one_armed:
        arms.append(("stable", look.stable))
    silent = [name for name, arm in arms if not arm.requests]
    return f"no request reached {' and '.join(silent)} since the look before" if silent else None

"""The gates of a stage: each turns looks into evidence against the canary, and into a proof that it is no worse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from model_release.gates import latency, sequential
from model_release.gates.comparison import Comparison, arm_report
from model_release.gates.looks import Arm, Look
from model_release.spec import ErrorRateGate, LatencyGate

P99_SHARE = 0.01
"""The share of requests that may be slower than an objective for the p99."""

_ONE_LOOK = 0.6
"""The part of log(1/alpha) that one look may give: what one crash explains must be seen a second time."""

_WORTH_SAYING = 1.5


class Gate(ABC):
    """A gate of the spec over one stage; `carried` is what it came to in the stages before."""

    def __init__(
        self, spec: ErrorRateGate | LatencyGate, alpha_rollback: float, carried: Mapping[str, Any] | None
    ) -> None:
        self.spec = spec
        self.comparisons: list[Comparison] = []
        self._alpha = alpha_rollback
        self._carried = carried
        self._peak = float(carried["log_peak"]) if carried else 0.0

    @abstractmethod
    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; `warm` once the stage's warm-up is over."""

    @abstractmethod
    def observe(self, look: Look) -> None:
        """Learn what stable is like from a look at it alone, before the canary has any weight."""

    def _compare(self, words: str, *, of: int = 1, **how: Any) -> None:
        """
        Begin one comparison `of` some, with the evidence of earlier stages.

        Evidence is their mean: one that speaks alone may say the more in a look, so that two looks still suffice.
        """
        most = -math.log(self._alpha) * _ONE_LOOK + math.log(of) / 2
        comparison = Comparison(words, self.spec.margin, most, **how)
        if self._carried:
            comparison.carry(self._carried)
        self.comparisons.append(comparison)

    def _note_peak(self) -> None:
        self._peak = max(self._peak, self.log_evidence)

    @property
    def log_evidence(self) -> float:
        """The log of the gate's e-value: the mean over its comparisons; before it has any, the earlier stages'."""
        if not self.comparisons:
            return float(self._carried["log_evidence"]) if self._carried else 0.0
        return sequential.log_mean([comparison.log_evidence for comparison in self.comparisons])

    def carried(self) -> dict[str, Any]:
        """Return what the stages to come need, as JSON values."""
        if not self.comparisons and self._carried:
            return dict(self._carried)
        return {
            "log_evidence": self.log_evidence,
            "log_peak": self._peak,
            "comparisons": [comparison.carried() for comparison in self.comparisons],
        }

    def proved(self, alpha: float) -> bool:
        """Whether the canary is worse by less than the margin; proved where bad requests are the rarest, the last."""
        return bool(self.comparisons) and self.comparisons[-1].proof.log_evidence >= -math.log(alpha)

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict, as JSON values."""
        evidence = math.exp(min(self.log_evidence, 700.0))
        named = {"name": self.spec.name, "kind": self.spec.kind, "dry_run": self.spec.dry_run}
        numbers = {
            "e_value": evidence,
            "p_value": math.exp(-max(0.0, self._peak)),
            "rollback_at": 1 / alpha_rollback,
            "advance_at": 1 / alpha_advance,
            "margin": self.spec.margin,
        }
        if not self.comparisons:
            waiting = f"{self.spec.name}: not judged yet, stable's own latency is still being read"
            nothing = {"canary": arm_report((0, 0)), "stable": arm_report((0, 0)), "worst_excess": None}
            unknown = {"phi": None, "advance_e_value": None}
            return {**named, **nothing, **numbers, **unknown, "verdict": "inconclusive", "sentence": waiting}
        shown, excess = self.comparisons[-1], self.comparisons[-1].proof.excess(alpha_advance)
        verdict, proof = "inconclusive", shown.proved(alpha_advance)
        if evidence >= 1 / alpha_rollback:
            verdict, shown = "rollback", max(self.comparisons, key=lambda each: each.log_evidence)
            proof = f"evidence {evidence:.3g} against {1 / alpha_rollback:g}"
        elif self.proved(alpha_advance):
            verdict = "advance"
        return {
            **named,
            **shown.arms(alpha_advance),
            "objective": shown.limit,
            "worst_excess": excess,
            **numbers,
            "advance_e_value": math.exp(min(self.comparisons[-1].proof.log_evidence, 700.0)),
            "phi": shown.phi_used,
            "verdict": verdict,
            "sentence": f"{self.spec.name}: {shown.sentence()}; {proof}{_clumps(shown.dispersion.phi)}",
        }


class ErrorGate(Gate):
    """The share of failed requests; they count from the first request on."""

    def __init__(
        self, spec: ErrorRateGate, alpha_rollback: float, *, one_armed: bool, carried: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, alpha_rollback, carried)
        self._compare("failed", odds_ratio=spec.odds_ratio, limit=spec.objective if one_armed else None)

    def take(self, look: Look, *, warm: bool) -> None:  # noqa: ARG002 - an error of a cold replica is an error
        """Add one look."""
        canary, stable = look.canary, look.stable
        replicas = [(replica.requests, replica.errors) for replica in look.stable_by_replica]
        self.comparisons[0].take((canary.requests, canary.errors), (stable.requests, stable.errors), replicas)
        self._note_peak()

    def observe(self, look: Look) -> None:
        """Learn how stable's errors clump."""
        replicas = [(replica.requests, replica.errors) for replica in look.stable_by_replica]
        self.comparisons[0].observe((look.stable.requests, look.stable.errors), replicas)


class SlowGate(Gate):
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
        self._unjudged: list[Look] = []

    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; before the bounds are known it only helps to find them, and how slow requests clump."""
        if warm and not self.comparisons:
            self._fix_bounds(latency.known_bounds(look.canary))
        if not warm or not self.comparisons:
            self.observe(look)
            return
        for comparison, allowed in zip(self.comparisons, self._allowed, strict=True):
            replicas = [latency.slower(replica, allowed.stable_ms) for replica in look.stable_by_replica]
            stable = latency.slower(look.stable, allowed.stable_ms)
            comparison.take(latency.slower(look.canary, allowed.canary_ms), stable, replicas)
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
            self._compare(f"took longer than {bound:g} ms", limit=P99_SHARE, key=f"objective {bound:g}")
            return
        before: Mapping[str, int] = {}
        for look in self._unjudged:
            before = latency.pooled(before, look.stable.latency_buckets)
        self.bounds_ms = self.bounds_ms or latency.bounds_from(before) or []
        for place, bound in enumerate(sorted(self.bounds_ms), 1):
            allowed = latency.comparison(bound, self._slow.slower_than, known_ms)
            self._allowed.append(allowed)
            words = f"took longer than {allowed.canary_ms:g} ms"
            if allowed.canary_ms != allowed.stable_ms:
                words += f" (stable's bound {allowed.stable_ms:g} ms)"
            last = len(self.bounds_ms)
            self._compare(words, of=last, odds_ratio=allowed.odds_ratio, proves=place == last)
            for look in self._unjudged:
                replicas = [latency.slower(replica, allowed.stable_ms) for replica in look.stable_by_replica]
                self.comparisons[-1].observe(latency.slower(look.stable, allowed.stable_ms), replicas)
        if self.comparisons:
            self._unjudged.clear()

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict, with its bounds (ms) and what they really allow."""
        allowed = [each.to_dict() for each in self._allowed]
        return {
            **super().report(alpha_rollback, alpha_advance),
            "bounds_ms": list(self.bounds_ms),
            "effective_margin": allowed,
        }


def _clumps(phi: float) -> str:
    return f"; bad requests come in clumps of {phi:.1f}" if phi >= _WORTH_SAYING else ""


def is_empty(look: Look, *, one_armed: bool) -> str | None:
    """Return why a look says nothing, or None."""
    if look.note:
        return look.note
    arms: list[tuple[str, Arm]] = [("canary", look.canary)]
    if not one_armed:
        arms.append(("stable", look.stable))
    silent = [name for name, arm in arms if not arm.requests]
    return f"no request reached {' and '.join(silent)} since the look before" if silent else None

"""
A gate of a stage: it turns looks into evidence against the canary, and into a proof that it is no worse.

Here are what gates have in common and the gate of latency; `kinds` has the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from model_release.gates import latency, sequential
from model_release.gates.comparison import Comparison, arm_report
from model_release.gates.looks import Look
from model_release.gates.paired import Answers
from model_release.spec import GateSection, LatencyGate

P99_SHARE = 0.01
"""The share of requests that may be slower than an objective for the p99."""

_ONE_LOOK = 0.6
"""The part of log(1/alpha) that one look may give: what one crash explains must be seen a second time."""

_WORTH_SAYING = 1.5


class Gate(ABC):
    """A gate of the spec over one stage; `carried` is what it came to in the stages before."""

    def __init__(self, spec: GateSection, alpha_rollback: float, carried: Mapping[str, Any] | None) -> None:
        self.spec: Any = spec
        self.comparisons: list[Comparison | Answers] = []
        self._alpha = alpha_rollback
        self._carried = carried
        self._peak = float(carried["log_peak"]) if carried else 0.0

    @abstractmethod
    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; `warm` once the stage's warm-up is over."""

    @abstractmethod
    def observe(self, look: Look) -> None:
        """Learn what stable is like from a look at it alone, before the canary has any weight."""

    def _compare(self, words: str, *, of: int = 1, **how: Any) -> Comparison:
        """
        Begin one comparison `of` some, with the evidence of earlier stages.

        Evidence is their mean: one that speaks alone may say the more in a look, so that two looks still suffice.
        """
        most = -math.log(self._alpha) * _ONE_LOOK + math.log(of) / 2
        comparison = Comparison(words, self.spec.margin, most, **how)
        self._begin(comparison)
        return comparison

    def _begin(self, comparison: Comparison | Answers) -> None:
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

    @property
    def stands_aside(self) -> str | None:
        """Why the gate has nothing to judge in this stage and holds up no advance; None for one that judges."""
        return None

    def proved(self, alpha: float) -> bool:
        """Whether the canary is worse by less than the margin; proved where bad requests are the rarest, the last."""
        if self.stands_aside:
            return True
        return bool(self.comparisons) and self.comparisons[-1].log_proof() >= -math.log(alpha)

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
            why = self.stands_aside or "not judged yet, stable's own latency is still being read"
            nothing = {"canary": arm_report((0, 0)), "stable": arm_report((0, 0)), "worst_excess": None}
            unknown = {"phi": None, "advance_e_value": None}
            verdict = "advance" if self.stands_aside else "inconclusive"
            return {
                **named,
                **nothing,
                **numbers,
                **unknown,
                "verdict": verdict,
                "sentence": f"{self.spec.name}: {why}",
            }
        proving = shown = self.comparisons[-1]
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
            "worst_excess": proving.excess(alpha_advance),
            **numbers,
            "advance_e_value": math.exp(min(proving.log_proof(), 700.0)),
            "phi": shown.phi_used,
            "verdict": verdict,
            "sentence": f"{self.spec.name}: {shown.sentence()}; {proof}{_clumps(shown.phi)}",
        }


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
        self._slower: list[Comparison] = []
        self._unjudged: list[Look] = []

    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look; before the bounds are known it only helps to find them, and how slow requests clump."""
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
            words = f"took longer than {allowed.canary_ms:g} ms"
            if allowed.canary_ms != allowed.stable_ms:
                words += f" (stable's bound {allowed.stable_ms:g} ms)"
            last = len(self.bounds_ms)
            comparison = self._compare(words, of=last, odds_ratio=allowed.odds_ratio, proves=place == last)
            self._slower.append(comparison)
            for look in self._unjudged:
                replicas = [latency.slower(replica, allowed.stable_ms) for replica in look.stable_by_replica]
                comparison.observe(latency.slower(look.stable, allowed.stable_ms), replicas)
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

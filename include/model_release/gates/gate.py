"""What the gates of a stage have in common: looks become evidence against the canary, and a proof of the contrary."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from model_release.gates import sequential
from model_release.gates.comparison import Comparison, arm_report
from model_release.gates.looks import Look
from model_release.gates.paired import Answers
from model_release.spec import GateSection

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
        """Begin one comparison `of` some, with the evidence of earlier stages."""
        comparison = Comparison(words, self.spec.margin, self._most(of), **how)
        self._begin(comparison)
        return comparison

    def _most(self, of: int = 1) -> float:
        """
        Return the log of the factor that one look may be worth to one `of` some comparisons.

        Evidence is their mean: one that speaks alone may say the more in a look, so that two looks still suffice.
        """
        return -math.log(self._alpha) * _ONE_LOOK + math.log(of) / 2

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


def _clumps(phi: float) -> str:
    return f"; bad requests come in clumps of {phi:.1f}" if phi >= _WORTH_SAYING else ""

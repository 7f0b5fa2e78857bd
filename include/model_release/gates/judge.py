"""
The judge of one stage: looks in, verdicts out.

Rollback, at any look, when the weighted mean of the gates' e-values passes 1/alpha_rollback. The e-values go on through
the stages of a release: a version that is as good as stable is rolled back in any of them with a chance of at most
alpha_rollback. Advance only when the bake and the requests
suffice and every gate proves, at alpha_advance, that the canary is worse by less than its margin. Else inconclusive,
which says what is missing. A gate in dry run reports and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.gate import ErrorGate, Gate, SlowGate, is_empty
from model_release.gates.looks import Look
from model_release.spec import Canary, ErrorRateGate

ADVANCE, ROLLBACK, INCONCLUSIVE = "advance", "rollback", "inconclusive"
GATHERING, NO_DATA, DEADLINE = "gathering", "no_data", "deadline"


@dataclass(frozen=True)
class Verdict:
    """
    What a look led to, and why.

    The reason of an inconclusive one begins with `gathering`, `no_data`, `source_down` or `deadline`.
    """

    t: float
    stage: int
    verdict: str
    reason: str
    gates: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the stage is over, be it by its deadline."""
        return self.verdict != INCONCLUSIVE or self.reason.startswith(DEADLINE)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as one JSON line holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Read what `to_dict` wrote; other keys are left alone."""
        return cls(**{key: values[key] for key in ("t", "stage", "verdict", "reason", "gates")})


class Judge:
    """
    Judges one stage, look by look; replaying the same looks gives the same verdicts.

    `t` of a look counts from `started_t`, the start of the stage. Without a stable (first_release), or with the whole
    traffic on the canary (stage 100), the gates' objectives stand in for stable. `carried` is what the judge of the
    stage before came to; without it evidence begins anew.
    """

    def __init__(
        self,
        canary: Canary,
        stage: int,
        *,
        first_release: bool,
        bounds_ms: Sequence[float] | None,
        started_t: float = 0.0,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        self._canary = canary
        self._stage = stage
        self._one_armed = first_release or stage == 100
        self._started_t = started_t
        self._until_s = 0.0
        self._requests = 0
        self._bounds_ms = list(bounds_ms or (carried or {}).get("bounds_ms") or [])
        evidence = (carried or {}).get("gates", {})
        self._gates = [self._gate(spec, evidence.get(spec.name)) for spec in canary.gates]
        self._deciding = [gate for gate in self._gates if not gate.spec.dry_run]

    def _gate(self, spec: Any, carried: Mapping[str, Any] | None) -> Gate:
        alpha = self._canary.alpha_rollback
        if isinstance(spec, ErrorRateGate):
            return ErrorGate(spec, alpha, one_armed=self._one_armed, carried=carried)
        return SlowGate(spec, alpha, one_armed=self._one_armed, bounds_ms=self._bounds_ms, carried=carried)

    @property
    def bounds_ms(self) -> list[float] | None:
        """The latency bounds (ms) in use, for the stages to come; None before there are any."""
        bounds = [gate.bounds_ms for gate in self._gates if isinstance(gate, SlowGate) and gate.bounds_ms]
        return bounds[0] if bounds and not self._one_armed else None

    def carried(self) -> dict[str, Any]:
        """Return what the judge of the next stage goes on from, as JSON values."""
        gates = {gate.spec.name: gate.carried() for gate in self._gates}
        return {"gates": gates, "bounds_ms": self.bounds_ms or self._bounds_ms or None}

    def learn(self, looks: Iterable[Look]) -> None:
        """Learn from looks at stable alone, taken before the canary had any weight: its latency, and its clumps."""
        for look in looks:
            for gate in self._gates:
                gate.observe(look)

    def replay(self, looks: Iterable[Look]) -> None:
        """Add looks that were judged before, without judging them again."""
        for look in looks:
            # A look reaches back to the one before it, and none of it may lie in the warm-up.
            warm, self._until_s = self._until_s >= self._canary.warmup_s, look.t - self._started_t
            if look.note:
                continue
            self._requests += look.canary.requests
            for gate in self._gates:
                gate.take(look, warm=warm)

    def take(self, look: Look) -> Verdict:
        """Add one look and judge all of the stage so far."""
        self.replay([look])
        age_s, empty = look.t - self._started_t, is_empty(look, one_armed=self._one_armed)
        reports = [gate.report(self._canary.alpha_rollback, self._canary.alpha_advance) for gate in self._gates]
        verdict, reason = self._decide(age_s, empty, reports)
        return Verdict(look.t, self._stage, verdict, reason, reports)

    def _decide(self, age_s: float, empty: str | None, reports: Sequence[dict[str, Any]]) -> tuple[str, str]:
        if self.log_evidence >= -math.log(self._canary.alpha_rollback):
            return ROLLBACK, self._why_rollback(reports)
        waits_for = f"{NO_DATA}: {empty}" if empty else self._missing(age_s, reports)
        if waits_for is None:
            proofs = [report["sentence"] for report in reports if not report["dry_run"]]
            return ADVANCE, "; ".join(proofs) or f"{self._requests} requests, every gate is a dry run"
        if age_s >= self._canary.max_bake_s:
            return INCONCLUSIVE, f"{DEADLINE}: {self._canary.max_bake_s:g} s are over; {waits_for}"
        return INCONCLUSIVE, waits_for

    @property
    def proved(self) -> bool:
        """Whether every deciding gate proves the canary worse by less than its margin, be the bake over or not."""
        return all(gate.proved(self._canary.alpha_advance) for gate in self._deciding)

    @property
    def log_evidence(self) -> float:
        """The log of the release's e-value against the canary: the weighted mean of the deciding gates'."""
        if not self._deciding:
            return 0.0
        logs = [gate.log_evidence for gate in self._deciding]
        return sequential.log_mean(logs, [gate.spec.weight for gate in self._deciding])

    def _why_rollback(self, reports: Sequence[dict[str, Any]]) -> str:
        """Return the sentence of the gate that weighs most in the evidence."""
        weighed = [
            (gate.log_evidence + math.log(gate.spec.weight), str(report["sentence"]))
            for gate, report in zip(self._gates, reports, strict=True)
            if not gate.spec.dry_run
        ]
        return max(weighed)[1]

    def _missing(self, age_s: float, reports: Sequence[dict[str, Any]]) -> str | None:
        """Return what an advance still waits for, or None."""
        if self._requests < self._canary.min_requests:
            return f"{GATHERING}: {self._requests} of {self._canary.min_requests} requests"
        if age_s < self._canary.min_bake_s:
            return f"{GATHERING}: {age_s:.0f} of {self._canary.min_bake_s:g} s"
        unproved = [report["sentence"] for report in reports if not report["dry_run"] and report["verdict"] != ADVANCE]
        return f"{GATHERING}: {'; '.join(unproved)}" if unproved else None

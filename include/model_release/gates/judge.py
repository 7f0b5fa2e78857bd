"""
The judge of one stage: looks in, verdicts out.

Rollback, at any look, when the weighted mean of the gates' e-values passes 1/alpha_rollback. The e-values go on through
the stages of a release: a version that is as good as stable is rolled back in any of them with a chance of at most
alpha_rollback. Advance only when the bake and the requests suffice and every gate
proves, at alpha_advance, that the canary is worse by less than its margin. Else inconclusive, which says what is
missing. A gate in dry run reports and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from model_release.gates import sequential
from model_release.gates.gate import Gate
from model_release.gates.kinds import AnswersGate, ErrorGate, OwnCounters
from model_release.gates.looks import WHOLE, Arm, Look
from model_release.gates.slow import SlowGate
from model_release.spec import Canary, ErrorRateGate, LatencyGate, ProportionGate

ADVANCE, ROLLBACK, INCONCLUSIVE = "advance", "rollback", "inconclusive"
GATHERING, NO_DATA, DEADLINE = "gathering", "no_data", "deadline"

CONTROL_SHARE = 0.005
"""At 100 %, stable's requests for each of the canary's from which on they are a mirrored control, and no stragglers."""


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
    traffic on the canary (stage 100) and nothing mirrored to the old fleet, the gates' objectives stand in for stable;
    whether there is such a control, the stage's first look with traffic says. `carried` is what the judge of the
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
        self._first_release = first_release
        self._started_t = started_t
        self._until_s = 0.0
        self._requests = 0
        self._carried = carried or {}
        self._given_ms = list(bounds_ms or self._carried.get("bounds_ms") or [])
        self._learned: list[Look] = []
        self._begun = False
        self._hold_against(one_armed=first_release or stage == WHOLE)

    def _hold_against(self, *, one_armed: bool) -> None:
        """Make the gates anew, held against stable or, one-armed, against their objectives."""
        evidence = self._carried.get("gates", {})
        self._one_armed = one_armed
        self._gates = [self._gate(spec, evidence.get(spec.name)) for spec in self._canary.gates]
        self._deciding = [gate for gate in self._gates if not gate.spec.dry_run]
        for look in self._learned:
            for gate in self._gates:
                gate.observe(look)

    def _gate(self, spec: Any, carried: Mapping[str, Any] | None) -> Gate:
        alpha, one_armed = self._canary.alpha_rollback, self._one_armed
        if isinstance(spec, ErrorRateGate):
            return ErrorGate(spec, alpha, one_armed=one_armed, carried=carried)
        if isinstance(spec, ProportionGate):
            return OwnCounters(spec, alpha, one_armed=one_armed, carried=carried)
        if isinstance(spec, LatencyGate):
            return SlowGate(spec, alpha, one_armed=one_armed, bounds_ms=self._given_ms, carried=carried)
        return AnswersGate(spec, alpha, first_release=self._first_release, carried=carried)

    @property
    def bounds_ms(self) -> list[float] | None:
        """The latency bounds (ms) in use, for the stages to come; None before there are any."""
        bounds = [gate.bounds_ms for gate in self._gates if isinstance(gate, SlowGate) and gate.bounds_ms]
        return bounds[0] if bounds and not self._one_armed else None

    def carried(self) -> dict[str, Any]:
        """Return what the judge of the next stage goes on from, as JSON values."""
        gates = {gate.spec.name: gate.carried() for gate in self._gates}
        return {"gates": gates, "bounds_ms": self.bounds_ms or self._given_ms or None}

    def learn(self, looks: Iterable[Look]) -> None:
        """Learn from looks at stable alone, taken before the canary had any weight: its latency, and its clumps."""
        for look in looks:
            self._learned.append(look)
            for gate in self._gates:
                gate.observe(look)

    def replay(self, looks: Iterable[Look]) -> None:
        """Add looks that were judged before, without judging them again."""
        for look in looks:
            # A look reaches back to the one before it, and none of it may lie in the warm-up.
            warm, self._until_s = self._until_s >= self._canary.warmup_s, look.t - self._started_t
            if look.note:
                continue
            look = self._beside_control(look)
            if not self._begun and look.canary.requests:
                self._begun = True
                if self._one_armed and not self._first_release and _has_control(look):
                    self._hold_against(one_armed=False)
            self._requests += look.canary.requests
            for gate in self._gates:
                gate.take(look, warm=warm)

    def _beside_control(self, look: Look) -> Look:
        """At 100 %, put the mirrored control where stable was."""
        return replace(look, stable=look.control) if self._stage == WHOLE and look.control.requests else look

    def take(self, look: Look) -> Verdict:
        """Add one look and judge all of the stage so far."""
        self.replay([look])
        look = self._beside_control(look)
        age_s, empty = look.t - self._started_t, _empty(look, one_armed=self._one_armed)
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


def _has_control(look: Look) -> bool:
    return look.stable.requests >= CONTROL_SHARE * look.canary.requests


def _empty(look: Look, *, one_armed: bool) -> str | None:
    """Return why a look says nothing, or None."""
    if look.note:
        return look.note
    arms: list[tuple[str, Arm]] = [("canary", look.canary)]
    if not one_armed:
        arms.append(("stable", look.stable))
    silent = [name for name, arm in arms if not arm.requests]
    return f"no request reached {' and '.join(silent)} since the look before" if silent else None

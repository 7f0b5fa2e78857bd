"""
The shadow: stage 0, in which the canary answers real requests whose answers nobody waits for.

Its looks compare the canary's mirrored requests with stable's real ones of the same time, in the same gates, and what
they come to is carried into the stages with weight. A canary that is judged bad never gets any. It need not prove there
that it is good: when its time is over, the first stage begins.
"""

from __future__ import annotations

from dataclasses import replace

from model_release.gates.judge import ADVANCE, GATHERING, INCONCLUSIVE, ROLLBACK, Verdict
from model_release.spec import Canary
from model_release.traffic.router import MIRROR, Router

STAGE = 0


def stages_of(canary: Canary, router: Router) -> list[int]:
    """Return the stages of a release with a stable version: the shadow first, if there is one."""
    shadow = [STAGE] if canary.shadow is not None and MIRROR in router.capabilities else []
    return [*shadow, *canary.stages]


def named(stage: int) -> str:
    """Say which stage."""
    return "shadow" if stage == STAGE else f"stage {stage} %"


def percent_of(canary: Canary, stage: int) -> int:
    """Return the share of the requests that is mirrored to the canary in a stage."""
    return canary.shadow.percent if canary.shadow is not None and stage == STAGE else 0


def ended(verdict: Verdict, canary: Canary, age_s: float) -> Verdict:
    """Return the verdict of the shadow: bad at any look, else over after its `seconds`."""
    if verdict.verdict == ROLLBACK or canary.shadow is None:
        return verdict
    said = "; ".join(gate["sentence"] for gate in verdict.gates) or verdict.reason
    if age_s >= canary.shadow.seconds:
        return replace(verdict, verdict=ADVANCE, reason=f"its {canary.shadow.seconds:g} s are over: {said}")
    reason = f"{GATHERING}: {age_s:.0f} of {canary.shadow.seconds:g} s of mirrored requests: {said}"
    return replace(verdict, verdict=INCONCLUSIVE, reason=reason)

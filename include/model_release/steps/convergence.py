"""Convergence through the bake: what a look at a stage asks of the canary's replicas, and what it makes of it."""

from __future__ import annotations

from typing import Any

from model_release.gates.judge import DEADLINE
from model_release.spec import Canary
from model_release.steps.context import Step
from model_release.steps.serve import prover, sealed_bundle
from model_release.triton.convergence import Mark, Prove, converge

#: Enough to tell a wrong version; the whole record is asked for before each shift and the promotion.
_SAMPLES = 4


def look_at_replicas(step: Step, fleet: str, marks: dict[str, Mark]) -> tuple[dict[str, Mark], list[str]]:
    """Return the marks of the canary's proved replicas, and a sentence for each replica that is not proved."""
    version = step.release.version
    config = sealed_bundle(step, version)

    def prove() -> Prove:
        return prover(step, step.archive.require(version), config, samples=_SAMPLES)

    return converge(step.pair.fleet(fleet), version, config, marks, prove, step.environment)


def held_by(decided: dict[str, Any], unproved: list[str], canary: Canary, age_s: float) -> dict[str, Any]:
    """
    Hold an advance while a replica is not proved; past the bake it ends as `on_inconclusive` says.

    `age_s` is the stage's. A verdict that leads to no advance keeps what it leads to, and names the replicas too.
    """
    if not unproved:
        return decided
    why = "; ".join(unproved)
    decided = {**decided, "unproved": unproved}
    if decided["verdict"] != "advance":
        return {**decided, "reason": f"{decided['reason']}; {why}"}
    if age_s < canary.max_bake_s:
        return {**decided, "action": None, "reason": f"the advance is held: {why}"}
    action = "advance" if canary.on_inconclusive == "advance" else "rollback"
    reason = f"{DEADLINE}: {canary.max_bake_s:g} s are over; {why}"
    return {**decided, "verdict": "inconclusive", "action": action, "reason": reason}

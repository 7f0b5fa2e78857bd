"""
withdraw: a canary of which no replica is proved has no weight, until all of them are proved again.

Its clients do not wait for that, since stable answers what the canary fails to; but each of their requests costs a try
that cannot succeed. The ledger's intent tells that the weight was taken away, so whoever looks next gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_release.gates.judge import ROLLBACK
from model_release.ledger.state import State
from model_release.steps.context import Step
from model_release.steps.route import apply_route, route_of

WITHDRAWN, RETURNED = "withdrawn", "returned"


def weigh_by_replicas(step: Step, stage: int, *, proved: int, unproved: Sequence[str]) -> str | None:
    """
    Take the canary's weight away when none of its replicas is proved, and give it back when all are.

    Returns WITHDRAWN or RETURNED, or None when nothing was changed; a first release has nobody else to answer. Raises
    what apply_route does.
    """
    state = step.claim.check()
    if state.stable is None or not stage:
        return None
    if not is_withdrawn(state, stage) and not proved and unproved:
        apply_route(step, route_of(state, step, canary_percent=0))
        step.event(WITHDRAWN, stage=stage, reason="; ".join(unproved))
        return WITHDRAWN
    if is_withdrawn(state, stage) and not unproved:
        apply_route(step, route_of(state, step, canary_percent=stage))
        step.event(RETURNED, stage=stage, reason=f"each of the {proved} replicas is proved again")
        return RETURNED
    return None


def is_withdrawn(state: State, stage: int) -> bool:
    """Whether the canary of a stage has no weight."""
    return stage > 0 and state.canary is not None and getattr(state.weights.intent, state.canary.fleet) == 0


def given_up(step: Step, stage: int, decided: dict[str, Any], unproved: Sequence[str], age_s: float) -> dict[str, Any]:
    """End a stage whose canary is not back within `max_bake_s`, whatever `on_inconclusive` says."""
    most_s = step.spec.canary.max_bake_s
    if age_s < most_s or not unproved or not is_withdrawn(step.claim.check(), stage):
        return decided
    reason = f"it has no weight for want of a proved replica, and {most_s:g} s are over: {'; '.join(unproved)}"
    return {**decided, "verdict": ROLLBACK, "action": ROLLBACK, "reason": reason}

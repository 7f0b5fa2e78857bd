"""queue: a release waits for its turn at its fleet pair, where the environment wants one canary at a time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from model_release.environment import Environment
from model_release.errors import CanaryQueued
from model_release.identity import Kind, Release
from model_release.ledger.queue import CanaryQueue, Entry
from model_release.steps.context import Step, begin

_POLL_S = 2.0


def look(release: Release, environment: Environment, behind: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    Stand in the queue of the release's fleet pair, where it stands already if it did before, and keep its claim.

    Returns done, and while it is false: behind (who has the turn; to be handed to the next look, so that the ledger
    hears of each once) and wait_s, after which a look gives up. Raises CanaryQueued.
    """
    # In the phase of the step that waits: what was planned for a try of deploy holds for its wait too.
    with begin(release, environment, "deploy") as step:
        first = ahead(step, Entry.model_validate(behind) if behind else None)
        if first is None:
            return {"done": True}
        line = f"{first.model} version {first.version} has its canary on the fleet pair: this release waits"
        wait_s = environment.change_policy.queue_s
        return {"done": False, "behind": first.model_dump(mode="json"), "wait_s": wait_s, "lines": [line]}


def await_turn(step: Step) -> None:
    """Wait in this process; the claim is renewed meanwhile. Raises CanaryQueued after `queue_s`, and Superseded."""
    behind = None
    while behind := ahead(step, behind):
        time.sleep(_POLL_S)
        step.check()


def ahead(step: Step, told: Entry | None = None) -> Entry | None:
    """
    Return who has the turn at the step's fleet pair, None when it is the step's own; a restore waits for nobody.

    The ledger hears of it unless it was `told`. Raises CanaryQueued once `queue_s` are over since the queue was joined.
    """
    policy, pair = step.environment.change_policy, step.spec.serving.fleet_pair
    if not policy.one_canary_per_pair or step.release.kind is not Kind.BUILD:
        return None
    queue = CanaryQueue(step.store, pair)
    *before, own = queue.join(step.model, step.release.holder, step.release.version)
    if not before:
        return None
    first = before[0]
    if first != told:
        step.event("queued", behind=first.model, behind_version=first.version, place=len(before), pair=pair)
    if step.store.now() > own.since + timedelta(seconds=policy.queue_s):
        queue.leave(step.model, step.release.holder)
        raise CanaryQueued(step.model, pair, first.model, first.version, len(before), policy.queue_s)
    return first


def leave_queue(step: Step) -> None:
    """Give the pair to the next in the queue."""
    if step.environment.change_policy.one_canary_per_pair:
        CanaryQueue(step.store, step.spec.serving.fleet_pair).leave(step.model, step.release.holder)

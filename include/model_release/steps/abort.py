"""abort: end a live release at once, whoever runs it; its canary goes back first."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.errors import NothingToDecide, NothingToRollBackTo
from model_release.identity import Release
from model_release.ledger.claim import as_seen
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import report
from model_release.steps.context import Step, begin
from model_release.steps.roll_back import undo


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Take the claim from the running release, put the traffic back and reject the canary with `release.reason`.

    `release` is a restore of the canary's own version by the person who aborts. Raises NothingToDecide when that is no
    live canary, and Superseded when somebody else takes the claim in this moment; nobody is preempted then.
    """
    seen = StateFile(ObjectStore(environment.s3), release.model).read()

    def demand(state: State) -> None:
        if state.canary is None or state.canary.version != release.version:
            why = f"version {release.version} is no canary any more, as it was promoted or taken back just now"
            raise NothingToDecide(release.model, f"{why}: run the command again")
        as_seen(seen)(state)

    with begin(release, environment, "abort", begins=True, demand=demand) as step:
        result = end_live(step, reason=release.reason, rejects=True)
    report.leave(release.model, result["run"], environment)
    return result


def end_live(step: Step, *, reason: str, rejects: bool) -> dict[str, Any]:
    """
    Make the live release this step's own, undo it and give the claim back; the result names its `run`.

    Raises NothingToDecide when there is no live canary.
    """
    state, release = step.claim.check(), step.release
    if state.canary is None or state.release is None:
        raise NothingToDecide(release.model, "it has no canary")
    ended = state.release.holder
    running = state.release.model_copy(
        update={"run_id": release.run_id, "clear_number": release.clear_number, "reason": reason}
    )
    step.update(release=running)
    result = undo(step, reason=reason, rejects=rejects)
    step.update(claim=None)
    return {**result, "run": ended}


def target(state: State) -> int:
    """
    Return the version a rollback without a target goes to: the standby, else the newest promoted one.

    Neither is rejected, nor pruned. Raises NothingToRollBackTo.
    """
    stable = state.stable.version if state.stable else None
    rejected = {entry.version for entry in state.rejected} | {stable, *state.pruned}
    if state.standby is not None and state.standby.version not in rejected:
        return state.standby.version
    for promotion in reversed(state.promotions):
        if promotion.version not in rejected:
            return promotion.version
    raise NothingToRollBackTo(state.model)

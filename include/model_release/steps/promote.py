"""promote: the roles swap; no fleet is reloaded, and the old version stays warm as standby."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.identity import Kind, Release, version_of
from model_release.ledger.state import Promotion, Rejection, State
from model_release.steps.context import begin
from model_release.steps.route import apply_route, route_of
from model_release.steps.serve import prove, sealed_bundle
from model_release.steps.shift import require_advance


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Make the canary stable. Raises NoAdvanceVerdict unless every stage was judged `advance`.

    A restore rejects the version that it replaces, and makes the restored one a default target again.
    """
    with begin(release, environment, "promote") as step:
        if step.running.outcome != "promoted":
            require_advance(step.running, None)
            base = step.archive.require(release.version)
            prove(step, step.running.fleet, base, sealed_bundle(step, release.version))
            now = step.store.now()

            def swapped(state: State) -> State:
                if state.canary is None or state.release is None:
                    return state
                decision = release.version if release.kind is Kind.BUILD else version_of(now)
                promotion = Promotion(
                    version=release.version,
                    digest=state.canary.digest,
                    kind=release.kind,
                    decision=max(decision, state.newest_decision),
                    at=now,
                    run_id=release.run_id,
                )
                rejected = [entry for entry in state.rejected if entry.version != release.version]
                if release.kind is Kind.RESTORE and state.stable is not None:
                    why = release.reason or f"replaced by a restore of {release.version}"
                    rejected.append(Rejection(version=state.stable.version, reason=why, at=now, run_id=release.run_id))
                return state.model_copy(
                    update={
                        "stable": state.canary,
                        "canary": None,
                        "standby": state.stable,
                        "promotions": [*state.promotions, promotion],
                        "rejected": rejected,
                        "release": state.release.model_copy(update={"outcome": "promoted"}),
                    }
                )

            step.claim.change(swapped)
        state = step.claim.check()
        before = state.standby.version if state.standby else None
        # First, as the canary has all of the traffic already, and is stable even if no receiver confirms its new role.
        step.event("promoted", stable=release.version, standby=before)
        apply_route(step, route_of(state, step, canary_percent=0))
        return {"stable": release.version, "standby": before}

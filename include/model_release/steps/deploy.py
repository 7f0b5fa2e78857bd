"""deploy: the sealed version onto every replica of the canary fleet, proved on each, at weight 0."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.errors import NotBenchmarked, ProofFailed, ReplicaUnavailable
from model_release.identity import Release
from model_release.ledger.state import Placement, State
from model_release.steps import bystanders
from model_release.steps.approve import require_approval
from model_release.steps.before import watching_stable
from model_release.steps.context import begin
from model_release.steps.queue import await_turn
from model_release.steps.route import apply_route, route_of
from model_release.steps.serve import prove, put_on, sealed_bundle


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Bring the version onto the canary fleet and prove it on each replica's own port; a standby is used if it is it.

    Raises NotApproved, CanaryQueued, NotBenchmarked, VersionNotFound, SignatureMissing, SignatureInvalid, BytesDiffer,
    LoadFailed, ProofFailed, ReplicaUnavailable; no weight was moved then.
    """
    with begin(release, environment, "deploy") as step, watching_stable(step):
        require_approval(step.running, "before_canary")
        await_turn(step)
        fleet = step.running.fleet
        base = step.archive.require(release.version)
        if step.running.benchmark_due and step.archive.sealed(release.version, "tuned") is None:
            raise NotBenchmarked(release.model, release.version)
        step.signatures.require(base)  # a standby too: it is proved by what lies in the archive now
        bundle = sealed_bundle(step, release.version)
        placed = Placement(fleet=fleet, version=release.version, digest=bundle.digest)
        warm = step.claim.check().standby == placed
        bystanders.note(step, deploys=True)

        def intent(state: State) -> State:
            standby = None if state.standby and state.standby.fleet == fleet else state.standby
            return state.model_copy(update={"canary": placed, "standby": standby})

        step.claim.change(intent)
        if warm:
            try:
                proofs = prove(step, fleet, base, bundle)
            except (ProofFailed, ReplicaUnavailable):
                proofs = put_on(step, fleet, base, bundle)
        else:
            proofs = put_on(step, fleet, base, bundle)
        state = step.update_running(deployed=True)
        apply_route(step, route_of(state, step, canary_percent=0))
        step.event("deployed", fleet=fleet, proofs=proofs, reused_standby=warm)
        return {"fleet": fleet, "version": release.version, "replicas": len(proofs), "reused_standby": warm}

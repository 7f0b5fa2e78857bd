"""plan: take the claim, refuse what may not be released, and say what will happen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from model_release.environment import FLEETS, Environment
from model_release.errors import AlreadyStable, ContractBroken, StaleBuild, VersionPruned, VersionRejected
from model_release.gates.plan import needed_requests
from model_release.identity import Kind, Release, date_of
from model_release.ledger.state import Running, State
from model_release.repository.probe import require_verbs
from model_release.repository.signing import require_usable
from model_release.spec import ModelSpec, render_template
from model_release.steps.context import Step, begin, freeze_spec, read_frozen_spec
from model_release.steps.roll_back import undo
from model_release.steps.route import apply_route, route_of
from model_release.triton.replica import ReplicaClient


def run(release: Release, environment: Environment, spec: ModelSpec) -> dict[str, Any]:
    """
    Claim the model and freeze the spec; nothing that serves is touched but the leftovers of a dead release.

    Returns kind, version, fleet, stages, first_release, skip_benchmark, checkpoint and `lines` for people.
    Raises StoreLacksVerb, ClaimHeld, StaleBuild, VersionRejected, VersionNotFound, AlreadyStable, ContractBroken,
    VersionPruned, ReplicaUnavailable, SignerMissing, SigningKeyUnusable, SignatureMissing, SignatureInvalid.
    """
    pair = environment.pair(spec.serving.fleet_pair)
    require_verbs(environment.s3)  # before the claim, which is a conditional write itself
    require_usable(environment.signing, signer=release.kind is Kind.BUILD)
    with begin(release, environment, "plan", begins=True) as step:
        state = step.claim.check()
        started_at = step.store.now()
        digest = freeze_spec(step.store, spec, step.check)
        step.update(release=_record(release, spec, digest, state, started_at))
        _refuse(step, state)
        if state.canary is not None:
            undo(step, reason=f"superseded by {release.holder}", rejects=False)
            state = step.claim.check()
            step.update(release=_record(release, spec, digest, state, started_at))
        elif state.stable is not None:
            # With its epoch in the route, whoever had the claim before writes it no more.
            apply_route(step, route_of(state, step, canary_percent=0))
        _refuse_broken_contract(step, state, spec)
        for fleet in (step.running.fleet, "bench"):
            for replica in pair.fleet(fleet).replicas:
                with ReplicaClient(replica, environment) as client:
                    client.index(release.model)  # raises unless it answers
        running = step.running
        skip_benchmark = step.archive.sealed(release.version, "tuned") is not None
        lines = _lines(release, spec, state, running)
        step.event("planned", fleet=running.fleet, stages=running.stages, checkpoint=running.checkpoint, lines=lines)
        return {
            "model": release.model,
            "version": release.version,
            "kind": str(release.kind),
            "fleet": running.fleet,
            "stages": running.stages,
            "first_release": running.first_release,
            "skip_benchmark": skip_benchmark,
            "checkpoint": running.checkpoint,
            "stable_version": state.stable.version if state.stable else None,
            "lines": lines,
        }


def _refuse(step: Step, state: State) -> None:
    """Refuse what a rule forbids, before anything is touched."""
    release = step.release
    if state.stable is not None and state.stable.version == release.version:
        raise AlreadyStable(release.model, release.version)
    step.archive.refuse_pruned(release.version)
    if release.version in state.pruned:
        raise VersionPruned(release.model, release.version)
    if release.kind is Kind.RESTORE:
        step.archive.require(release.version)
        step.signatures.require_signer_of(release.version)
        return
    rejection = state.rejection_of(release.version)
    if rejection is not None:
        raise VersionRejected(release.model, release.version, rejection.reason)
    if release.version < state.newest_decision:
        step.update_running(outcome="stale")
        raise StaleBuild(release.model, release.version, state.newest_decision)
    if state.stable is not None:
        step.signatures.require_signer_of(state.stable.version)  # bench will have it too, to compare with


def _record(release: Release, spec: ModelSpec, digest: str, state: State, started_at: datetime) -> Running:
    first = state.stable is None
    lived = any(promotion.version == release.version for promotion in state.promotions)
    return Running(
        run_id=release.run_id,
        clear_number=release.clear_number,
        version=release.version,
        kind=release.kind,
        spec_digest=digest,
        checkpoint=release.checkpoint or _checkpoint(spec, release.version),
        reason=release.reason,
        by=release.by,
        fleet=_fleet_for(release, state),
        first_release=first,
        stages=[100] if first or lived else list(spec.canary.stages),
        started_at=started_at,
    )


def _checkpoint(spec: ModelSpec, version: int) -> str:
    date = date_of(version).strftime("%Y-%m-%d")
    return render_template(spec.source.checkpoint, {"date": date, "version": str(version)})


def _fleet_for(release: Release, state: State) -> str:
    """Return the fleet that is not stable's; the standby's own if it still has the asked version."""
    if state.standby is not None and state.standby.version == release.version:
        return state.standby.fleet
    stable = state.stable.fleet if state.stable else None
    return next(fleet for fleet in FLEETS if fleet != stable)


def _refuse_broken_contract(step: Step, state: State, spec: ModelSpec) -> None:
    """Compare inputs and outputs with those that stable's clients were built for."""
    if state.stable is None:
        return
    stable = step.archive.require(state.stable.version)
    before = read_frozen_spec(step.store, spec.name, stable.spec_digest)
    changes = [
        *_tensor_changes("input", before.inputs, spec.inputs, additions_break=True),
        *_tensor_changes("output", before.outputs, spec.outputs, additions_break=False),
    ]
    if changes:
        raise ContractBroken(spec.name, changes)


def _tensor_changes(what: str, before: Sequence[Any], after: Sequence[Any], *, additions_break: bool) -> list[str]:
    old = {tensor.name: (tensor.dtype, tensor.shape) for tensor in before}
    new = {tensor.name: (tensor.dtype, tensor.shape) for tensor in after}
    gone = [f"{what} {name!r} is gone" for name in old if name not in new]
    added = [f"{what} {name!r} is new" for name in new if name not in old] if additions_break else []
    changed = [
        f"{what} {name!r} was {_shown(old[name])}, is {_shown(new[name])}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    return [*gone, *added, *changed]


def _shown(tensor: tuple[str, list[int | str]]) -> str:
    return f"{tensor[0]}{tensor[1]}"


def _lines(release: Release, spec: ModelSpec, state: State, running: Running) -> list[str]:
    """Say what will happen, in a few sentences."""
    stable = f"version {state.stable.version} on {state.stable.fleet}" if state.stable else "nothing"
    made = f"from {running.checkpoint}" if release.kind is Kind.BUILD else f"from the archive ({release.reason})"
    first = running.first_release
    stages = ", ".join(
        f"{stage} % ({needed_requests(spec.canary, stage, first_release=first)} requests)" for stage in running.stages
    )
    bakes = len(running.stages) * spec.canary.min_bake_s
    gates = ", ".join(f"{gate.name} ({gate.kind})" for gate in spec.canary.gates)
    return [
        f"{release.kind} {release.model} version {release.version} {made}",
        f"stable now: {stable}; the canary goes to fleet {running.fleet}",
        f"stages, and what a healthy canary needs in each: {stages}",
        f"each bakes {spec.canary.min_bake_s:g} to {spec.canary.max_bake_s:g} s; "
        f"at least {bakes / 60:.1f} minutes in all",
        f"gates: {gates}",
    ]

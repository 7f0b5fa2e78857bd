"""plan: take the claim, refuse what may not be released, and say what will happen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from model_release.environment import FLEETS, Environment
from model_release.errors import BadModelConfig, StaleBuild
from model_release.gates.plan import StagePlan
from model_release.identity import Kind, Release, date_of
from model_release.intake import require_pin
from model_release.ledger.state import Running, State, StateFile
from model_release.repository.probe import require_verbs
from model_release.repository.signing import require_usable
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec, render_template
from model_release.steps import ensemble
from model_release.steps.context import Seen, Step, begin, freeze_spec
from model_release.steps.forecast import forecast, present
from model_release.steps.neighbours import refuse_clash
from model_release.steps.policy import builds_with, refuse_start
from model_release.steps.refusals import refuse, refuse_router
from model_release.steps.roll_back import undo
from model_release.steps.route import apply_route, route_of
from model_release.steps.shadow import stages_of
from model_release.traffic import connect
from model_release.triton.bundle import build_bundle
from model_release.triton.replica import ReplicaClient


def run(release: Release, environment: Environment, spec: ModelSpec) -> dict[str, Any]:
    """
    Claim the model and freeze the spec; nothing that serves is touched but the leftovers of a dead release.

    What may not be released is refused before anything is touched; a restore also before it preempts anybody.

    Returns kind, version, fleet, stages, first_release, skip_benchmark, checkpoint, `forecast` (what each stage
    needs) and `lines` for people.
    Raises BadModelConfig, CheckpointUnsafe, StoreLacksVerb, ClaimHeld, StaleBuild, VersionRejected, VersionNotFound,
    AlreadyStable, ContractBroken, VersionPruned, ReplicaUnavailable, RouterLacks, SignerMissing, SigningKeyUnusable,
    SignatureMissing, SignatureInvalid, ChangeFrozen, TooManyReleases.
    """
    spec = spec.served_as(release.model).pinned(release.sha256)
    pair = environment.pair(spec.serving.fleet_pair)
    if release.kind is Kind.BUILD:
        _refuse_checkpoint(release, spec)
        require_pin(spec.source, release.checkpoint or spec.source.checkpoint)
        bundle = build_bundle(spec, release.version)  # what Triton would refuse is refused here
    _refuse_without_metrics(environment, spec)
    router = connect(environment)
    refuse_router(router, environment.router.kind, release.model, spec)
    require_verbs(environment.s3)  # before the claim, which is a conditional write itself
    require_usable(environment.signing, signer=release.kind is Kind.BUILD)
    refuse_start(release, environment, spec)
    if release.kind is Kind.RESTORE:
        _refuse_before_it_preempts(release, environment, spec)
    with begin(release, environment, "plan", begins=True) as step:
        state = step.claim.check()
        started_at = step.store.now()
        digest = freeze_spec(step.store, spec, step.check)
        stages, builds = stages_of(spec.canary, router), builds_with(state, release, started_at)
        step.update(release=_record(release, spec, digest, state, started_at, stages), builds=builds)
        _note_superseded(step, state)
        _refuse(step, spec, state)
        if release.kind is Kind.BUILD:
            refuse_clash(step, bundle)
        if state.canary is not None:
            undo(step, reason=f"superseded by {release.holder}", rejects=False)
            state = step.claim.check()
            step.update(release=_record(release, spec, digest, state, started_at, stages))
        elif state.stable is not None:
            # With its epoch in the route, whoever had the claim before writes it no more.
            apply_route(step, route_of(state, step, canary_percent=0))
        for fleet in (step.running.fleet, "bench"):
            for replica in pair.fleet(fleet).replicas:
                with ReplicaClient(replica, environment) as client:
                    client.index(release.model)  # raises unless it answers
        running = step.running
        skip_benchmark = step.archive.sealed(release.version, "tuned") is not None
        known = present(step, state.stable.fleet if state.stable else None)
        plans = forecast(spec.canary, running.stages, known, first_release=running.first_release)
        lines = _lines(release, spec, state, running, plans)
        step.event("planned", **_facts(running, state), lines=lines)
        return {
            "model": release.model,
            "version": release.version,
            "kind": str(release.kind),
            "fleet": running.fleet,
            "stages": running.stages,
            "first_release": running.first_release,
            "skip_benchmark": skip_benchmark,
            "approval": running.approval,
            "checkpoint": running.checkpoint,
            "stable_version": state.stable.version if state.stable else None,
            "forecast": [each.to_dict() for each in plans],
            "lines": lines,
        }


def _note_superseded(step: Step, before: State) -> None:
    """Say of the release that still ran that this one took over; without a word its run would end in the dark."""
    other = before.release
    if other is None or other.outcome != "running" or other.holder == step.release.holder:
        return
    reason = f": {step.release.reason}" if step.release.reason else ""
    why = f"{step.release.kind} {step.release.version} took over{reason}"
    step.event("superseded", superseded=other.holder, superseded_version=other.version, reason=why)


def _facts(running: Running, state: State) -> dict[str, Any]:
    """Return what the history keeps of a plan."""
    kept = ("fleet", "stages", "checkpoint", "reason", "first_release", "spec_digest", "started_at")
    return {**{name: getattr(running, name) for name in kept}, "stable": state.stable.version if state.stable else None}


def _refuse_checkpoint(release: Release, spec: ModelSpec) -> None:
    """One checkpoint cannot stand for those of several parts, or of none."""
    if release.checkpoint is None or spec.serving.ensemble is None or len(spec.model_parts) == 1:
        return
    parts = sorted(spec.model_parts)
    why = f"the checkpoint {release.checkpoint} was named, and {spec.name} has {len(parts)} parts with one: {parts}"
    raise BadModelConfig(release.model, [f"{why}. Release it without, and each part takes what its own config says"])


def _refuse_before_it_preempts(release: Release, environment: Environment, spec: ModelSpec) -> None:
    """A restore that cannot be shall not stop the release that runs."""
    store = ObjectStore(environment.s3)
    refuse(Seen(spec, environment, store), release, spec, StateFile(store, release.model).read())


def _refuse_without_metrics(environment: Environment, spec: ModelSpec) -> None:
    """A gate that nobody can read would hold every release until its deadline."""
    own = [gate.name for gate in spec.canary.gates if gate.kind == "proportion"]
    if own and environment.metrics is None:
        problem = f"the gates {own} read counters by PromQL, and the environment has no `metrics` to read them from"
        raise BadModelConfig(spec.name, [problem])


def _refuse(step: Step, spec: ModelSpec, state: State) -> None:
    try:
        refuse(step, step.release, spec, state)
    except StaleBuild:
        step.update_running(outcome="stale")
        raise


def _record(
    release: Release, spec: ModelSpec, digest: str, state: State, started_at: datetime, stages: list[int]
) -> Running:
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
        stages=[100] if first or lived else stages,
        started_at=started_at,
        approval="none" if release.kind is Kind.RESTORE and lived else spec.canary.approval,
        epoch=state.epoch,
    )


def _checkpoint(spec: ModelSpec, version: int) -> str:
    """Return the checkpoint of a version; of an ensemble its only part's, or a sentence that names all of them."""
    if spec.serving.ensemble is None:
        date = date_of(version).strftime("%Y-%m-%d")
        return render_template(spec.source.checkpoint, {"date": date, "version": str(version)})
    found = {part: ensemble.checkpoint_of(own, version) for part, own in spec.model_parts.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{part}: {uri}" for part, uri in found.items()) or "the repository's own folders"


def _fleet_for(release: Release, state: State) -> str:
    """Return the fleet that is not stable's; the standby's own if it still has the asked version."""
    if state.standby is not None and state.standby.version == release.version:
        return state.standby.fleet
    stable = state.stable.fleet if state.stable else None
    return next(fleet for fleet in FLEETS if fleet != stable)


def _lines(release: Release, spec: ModelSpec, state: State, running: Running, plans: Sequence[StagePlan]) -> list[str]:
    """Say what will happen, in a few sentences."""
    stable = f"version {state.stable.version} on {state.stable.fleet}" if state.stable else "nothing"
    made = f"from {running.checkpoint}" if release.kind is Kind.BUILD else f"from the archive ({release.reason})"
    bakes = len([stage for stage in running.stages if stage]) * spec.canary.min_bake_s
    gates = ", ".join(f"{gate.name} ({gate.kind})" for gate in spec.canary.gates)
    return [
        f"{release.kind} {release.model} version {release.version} {made}",
        f"stable now: {stable}; the canary goes to fleet {running.fleet}",
        *(f"stage {each.sentence()}" for each in plans),
        f"each bakes {spec.canary.min_bake_s:g} to {spec.canary.max_bake_s:g} s; "
        f"at least {bakes / 60:.1f} minutes in all",
        f"gates: {gates}",
        *_ways_of_requests(spec, running),
        *([] if running.approval == "none" else [f"{running.approval.replace('_', ' ')}, a person has to say yes"]),
    ]


def _ways_of_requests(spec: ModelSpec, running: Running) -> list[str]:
    """Say who is asked what beside the weights, where there is anything to say."""
    said = []
    if 0 in running.stages and spec.canary.shadow is not None:
        shadow = spec.canary.shadow
        said.append(f"shadow: {shadow.percent} % of the requests are mirrored to the canary for {shadow.seconds:g} s")
    if not running.first_release and spec.canary.sticky_header is not None:
        said.append(f"sticky: requests go by the value of the header {spec.canary.sticky_header}")
    return said

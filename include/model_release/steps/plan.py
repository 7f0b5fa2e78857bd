"""plan: take the claim, refuse what may not be released, and say what will happen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from model_release.asked import spec_as_asked
from model_release.environment import FLEETS, Environment
from model_release.errors import AlreadyStable, BadModelConfig, StaleBuild
from model_release.gates.plan import StagePlan
from model_release.gates.users import are_shared
from model_release.identity import Kind, Mode, Release, date_of
from model_release.intake import require_pin
from model_release.ledger.claim import busy_until
from model_release.ledger.state import Running, State, StateFile
from model_release.repository.archive import Archive
from model_release.repository.probe import require_verbs
from model_release.repository.signing import require_usable
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec, render_template
from model_release.steps import ensemble
from model_release.steps.context import Seen, Step, begin, freeze_spec
from model_release.steps.forecast import READ_FOR_S, forecast, present
from model_release.steps.neighbours import refuse_clash
from model_release.steps.policy import builds_with, refuse_start, yield_to_earlier
from model_release.steps.refusals import refuse, refuse_router, refuse_stable
from model_release.steps.roll_back import undo
from model_release.steps.route import apply_route, route_of
from model_release.steps.shadow import stages_of
from model_release.traffic import connect
from model_release.traffic.router import USERS, Router
from model_release.triton.bundle import build_bundle
from model_release.triton.replica import ReplicaClient

_SAID_OF_MODE = {
    Mode.DRY_RUN: ["a dry run: no stage is shifted to; the canary is proved at weight 0, and taken away again"],
    Mode.EMERGENCY: ["an emergency: stable counts as bad, so the objectives alone judge the canary in every stage"],
}


def run(release: Release, environment: Environment, spec: ModelSpec) -> dict[str, Any]:
    """
    Claim the model and freeze the spec; nothing that serves is touched but the leftovers of a dead release.

    What may not be released is refused before anything is touched; a restore also before it preempts anybody. One
    refusal comes later, of a build that began at one moment with others which reach the environment's limit.

    Returns the release itself, its kind, mode, version, fleet, stages, first_release, skip_benchmark, approval,
    checkpoint, how often and for how long at most a stage is looked at, `forecast` (what each stage needs) and `lines`
    for people.
    Raises AskedWrongly, OrderStale, BadModelConfig, CheckpointUnsafe, StoreLacksVerb, ClaimHeld, StaleBuild,
    VersionRejected, VersionNotFound, AlreadyStable, ContractBroken, VersionPruned, ReplicaUnavailable, RouterLacks,
    SignerMissing, SigningKeyUnusable, SignatureMissing, SignatureInvalid, ChangeFrozen, TooManyReleases.
    """
    spec = spec_as_asked(spec.served_as(release.model), release).pinned(release.sha256)
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
    _refuse_before_the_claim(release, environment, spec)
    refuse_start(release, environment, spec)
    with begin(release, environment, "plan", begins=True) as step:
        state = step.claim.check()
        started_at = step.store.now()
        digest = freeze_spec(step.store, spec, step.check)
        stages, builds = stages_of(spec.canary, router), builds_with(state, release, started_at)
        _note_superseded(step, state)
        step.update(release=_record(release, spec, digest, state, started_at, stages), builds=builds)
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
        _require_user_log(router, spec, running)
        skip_benchmark = not release.benchmark or step.archive.sealed(release.version, "tuned") is not None
        step.update_running(benchmark_due=not skip_benchmark)
        # A restore is in a hurry: it takes a short look at the traffic.
        read_for_s = READ_FOR_S if release.kind is Kind.BUILD else READ_FOR_S / 10
        known = present(step, state.stable.fleet if state.stable else None, read_for_s)
        plans = forecast(spec.canary, running.stages, known, first_release=running.judged_alone)
        lines = _lines(release, spec, state, running, plans, by_user=USERS in router.capabilities)
        yield_to_earlier(step)
        step.event("planned", **_facts(running, state), lines=lines)
        return _result(release, spec, running, skip_benchmark=skip_benchmark, plans=plans, lines=lines) | {
            "stable_version": state.stable.version if state.stable else None
        }


def _require_user_log(router: Router, spec: ModelSpec, running: Running) -> None:
    """Raise RouterUnavailable where the release is going to be judged by users and the router cannot tell them."""
    shared = [stage for stage in running.stages if are_shared(stage)]
    if shared and spec.canary.sticky_header is not None and not running.judged_alone:
        router.affected_users(spec.name, running.version, shared[0], {})


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
    kept = ("fleet", "stages", "checkpoint", "reason", "mode", "first_release", "spec_digest", "started_at")
    return {**{name: getattr(running, name) for name in kept}, "stable": state.stable.version if state.stable else None}


def _refuse_checkpoint(release: Release, spec: ModelSpec) -> None:
    """One checkpoint cannot stand for those of several parts, or of none."""
    if release.checkpoint is None or spec.serving.ensemble is None or len(spec.model_parts) == 1:
        return
    parts = sorted(spec.model_parts)
    why = f"the checkpoint {release.checkpoint} was named, and {spec.name} has {len(parts)} parts with one: {parts}"
    raise BadModelConfig(release.model, [f"{why}. Release it without, and each part takes what its own config says"])


def _result(
    release: Release,
    spec: ModelSpec,
    running: Running,
    *,
    skip_benchmark: bool,
    plans: Sequence[StagePlan],
    lines: list[str],
) -> dict[str, Any]:
    return {
        "release": release.to_dict(),
        "model": release.model,
        "version": release.version,
        "kind": str(release.kind),
        "mode": str(release.mode),
        "fleet": running.fleet,
        "stages": running.stages,
        "first_release": running.first_release,
        "skip_benchmark": skip_benchmark,
        "approval": running.approval,
        "checkpoint": running.checkpoint,
        "look_interval_s": spec.canary.look_interval_s,
        "longest_stage_s": spec.canary.max_bake_s + spec.canary.hold_s,
        "forecast": [each.to_dict() for each in plans],
        "lines": lines,
    }


def kind_of_date(model: str, version: int, environment: Environment) -> Kind:
    """Say what a backfill of a version's date does: put back what is sealed, else build it. Raises StoreUnavailable."""
    sealed = Archive(ObjectStore(environment.s3), model).sealed(version, "base")
    return Kind.BUILD if sealed is None else Kind.RESTORE


def waits_for(model: str, environment: Environment) -> str | None:
    """Return whom a build of the model has to wait for, None when the claim is free. Raises StoreUnavailable."""
    store = ObjectStore(environment.s3)
    claim = StateFile(store, model).read().claim
    return None if claim is None or busy_until(claim) <= store.now() else f"{claim.holder}, in {claim.phase}"


def _refuse_before_the_claim(release: Release, environment: Environment, spec: ModelSpec) -> None:
    """A restore that cannot be shall not stop the release that runs; and nobody has to wait for what is there."""
    store = ObjectStore(environment.s3)
    state = StateFile(store, release.model).read()
    if release.kind is Kind.RESTORE:
        refuse(Seen(spec, environment, store), release, spec, state)
    else:
        refuse_stable(release, state)


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
    except AlreadyStable:  # since a moment ago; Airflow skips the run then, and nobody else would give the claim back
        step.event("finished", green=True, stable=step.release.version)
        own = step.release.run_id
        builds = [begun for begun in step.claim.check().builds if begun.run_id != own]
        step.update_running(outcome="stale")
        step.update(claim=None, builds=builds)
        raise


def _record(
    release: Release, spec: ModelSpec, digest: str, state: State, started_at: datetime, stages: list[int]
) -> Running:
    first = state.stable is None
    lived = any(promotion.version == release.version for promotion in state.promotions)
    unasked = (release.kind is Kind.RESTORE and lived) or release.mode is Mode.DRY_RUN
    return Running(
        run_id=release.run_id,
        clear_number=release.clear_number,
        version=release.version,
        kind=release.kind,
        spec_digest=digest,
        checkpoint=release.checkpoint or _checkpoint(spec, release.version),
        reason=release.reason,
        by=release.by,
        mode=release.mode,
        standby_before=state.standby,
        fleet=_fleet_for(release, state),
        first_release=first,
        stages=[100] if first or lived else stages,
        started_at=started_at,
        approval="none" if unasked else spec.canary.approval,
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


def _lines(
    release: Release, spec: ModelSpec, state: State, running: Running, plans: Sequence[StagePlan], *, by_user: bool
) -> list[str]:
    """Say what will happen, in a few sentences."""
    stable = f"version {state.stable.version} on {state.stable.fleet}" if state.stable else "nothing"
    why = release.reason or f"asked for by {release.by}"
    made = f"from {running.checkpoint}" if release.kind is Kind.BUILD else f"from the archive ({why})"
    bakes = len([stage for stage in running.stages if stage]) * spec.canary.min_bake_s
    gates = ", ".join(f"{gate.name} ({gate.kind})" for gate in spec.canary.gates)
    return [
        f"{release.kind} {release.model} version {release.version} {made}",
        f"stable now: {stable}; the canary goes to fleet {running.fleet}",
        *(f"stage {each.sentence()}" for each in plans),
        f"each bakes {spec.canary.min_bake_s:g} to {spec.canary.max_bake_s:g} s; "
        f"at least {bakes / 60:.1f} minutes in all",
        f"gates: {gates}",
        *_ways_of_requests(spec, running, by_user=by_user),
        *([] if running.approval == "none" else [f"{running.approval.replace('_', ' ')}, a person has to say yes"]),
        *_SAID_OF_MODE.get(release.mode, []),
        *([] if release.benchmark else ["the benchmark is switched off: it is served as the config says, untuned"]),
    ]


_OF_USERS = {
    True: "A user whose requests fail or are slow speaks against the canary as one, however many they are; what a "
    "stage needs is reckoned by requests, as if each came from another user; with fewer than some fifty users neither "
    "errors nor latency send one back",
    False: "Errors and latency are counted by request, so where they cluster by user, a few users may have a healthy "
    "version rolled back; with `router.user_log` in the environment users are counted",
}


def _ways_of_requests(spec: ModelSpec, running: Running, *, by_user: bool) -> list[str]:
    """Say who is asked what beside the weights, where there is anything to say."""
    said = []
    if 0 in running.stages and spec.canary.shadow is not None:
        shadow = spec.canary.shadow
        said.append(f"shadow: {shadow.percent} % of the requests are mirrored to the canary for {shadow.seconds:g} s")
    if not running.first_release and spec.canary.sticky_header is not None:
        said.append(f"sticky: requests go by the value of the header {spec.canary.sticky_header}. {_OF_USERS[by_user]}")
    return said

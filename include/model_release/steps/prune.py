"""
prune: what retention lets go leaves the archive, and all that serves or may have to serve again stays.

A version's end is decided by one compare-and-swap of state.json, as the holder of the claim: from then on it is planned
no more, so it does not matter which process deletes it, or when. Then its marker is written, then its manifests go,
then its files. Wherever that stops, the version is gone for every reader, and the next prune deletes the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from model_release.environment import Environment
from model_release.errors import BytesDiffer, CanaryLive, ClaimHeld, ReleaseError
from model_release.identity import Kind, Release
from model_release.ledger.events import Events
from model_release.ledger.state import State, StateFile
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest
from model_release.repository.prune import LEFTOVER_AFTER, Found, Policy, Verdict, judge
from model_release.repository.pruned import Pruned
from model_release.repository.store import ObjectStore, StoredObject, UnfinishedUpload
from model_release.spec import owner_of
from model_release.steps.context import Step, begin
from model_release.steps.orphan import GRACE_LEASES, is_free

PHASE = "prune"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What the archive of one model holds, and what becomes of each version."""

    verdicts: list[Verdict]
    manifests: dict[int, Manifest]
    objects: dict[int, list[StoredObject]]
    uploads: list[UnfinishedUpload]

    @property
    def going(self) -> list[Verdict]:
        """The versions that go, the oldest first."""
        return [each for each in reversed(self.verdicts) if each.goes]


@dataclass
class Pruning:
    """What a prune of one model found and did; of a dry run, what it would do."""

    model: str
    dry_run: bool
    versions: list[Verdict] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    freed_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**self.__dict__, "versions": [each.to_dict() for each in self.versions]}


def run(model: str, environment: Environment, policy: Policy, *, dry_run: bool, run_id: str, by: str = "") -> Pruning:
    """
    Judge every version of a model, and unless it is a `dry_run` delete those that go.

    The claim is taken only if something goes. Raises ClaimHeld and CanaryLive while a release is under way, Superseded
    when a restore took over: what was begun is then finished by the next prune. Also StoreUnavailable, BytesDiffer.
    """
    store = ObjectStore(environment.s3)
    state, now = StateFile(store, model).read(), store.now()
    seen = survey(store, state, policy, now)
    if dry_run or not (seen.going or seen.uploads):
        would = sum(each.size_bytes for each in seen.going)
        return Pruning(model, dry_run, seen.verdicts, [each.key for each in seen.uploads], would)
    _refuse(state, now, environment.lease_s)
    version = state.stable.version if state.stable else 0
    release = Release(model, version, Kind.BUILD, run_id, reason="retention", by=by)
    with begin(release, environment, PHASE, begins=True) as step, _claim_given_back(step):
        # Again, since what was seen before the claim may have changed.
        state, now = step.claim.check(), store.now()
        if state.canary is not None:
            raise CanaryLive(model, state.canary.version, state.canary.fleet)
        return _delete(step, survey(store, state, policy, now), now)


def leftovers(environment: Environment, *, dry_run: bool) -> tuple[list[str], int]:
    """Delete what probes of the store left behind, a day after; returns the keys and the bytes."""
    store = ObjectStore(environment.s3)
    before = store.now() - LEFTOVER_AFTER
    found = [each for each in store.objects("probe/") if each.last_modified < before]
    if not dry_run:
        for each in found:
            store.delete(each.key)
    return [each.key for each in found], sum(each.size_bytes for each in found)


def models(environment: Environment) -> list[str]:
    """Return the models that the archive knows."""
    return ObjectStore(environment.s3).folders("archive/")


def survey(store: ObjectStore, state: State, policy: Policy, now: datetime) -> Survey:
    """Read what the archive, the ledger and the serving prefixes say of each version. Raises BytesDiffer."""
    objects, found = _by_version(store, state.model), []
    sealed: dict[int, Manifest] = {}
    archive = Archive(store, state.model)
    for version, there in objects.items():
        one = _found(archive, version, there, state, sealed)
        if one is not None:
            found.append(one)
    rejected = {entry.version for entry in state.rejected} | {state.stable.version if state.stable else 0}
    newest_first = [entry.version for entry in reversed(state.promotions) if entry.version not in rejected]
    promoted_at = {entry.version: entry.at for entry in state.promotions}
    verdicts = judge(found, _held(store, state), list(dict.fromkeys(newest_first)), promoted_at, policy, now)
    uploads = store.unfinished_uploads(f"archive/{state.model}/")
    return Survey(verdicts, sealed, objects, [each for each in uploads if now - each.begun_at > LEFTOVER_AFTER])


def _by_version(store: ObjectStore, model: str) -> dict[int, list[StoredObject]]:
    """Return the objects of each version; by the objects, since some stores list folders that are empty."""
    root, found = f"archive/{model}/", dict[int, list[StoredObject]]()
    for entry in store.objects(root):
        name = entry.key.removeprefix(root).partition("/")[0]
        if name.isdigit():
            found.setdefault(int(name), []).append(entry)
    return found


def _found(
    archive: Archive, version: int, there: list[StoredObject], state: State, sealed: dict[int, Manifest]
) -> Found | None:
    """Return what there is of a version, and keep its manifest; None when a marker alone is left."""
    marker = archive.pruned(version)
    files = [each for each in there if each.key != archive.marker_key(version)]
    if not files:
        return None
    size_bytes, changed_at = sum(each.size_bytes for each in files), max(each.last_modified for each in files)
    condemned = marker is not None or version in state.pruned
    if marker is not None:
        return Found(version, size_bytes, changed_at, marker.sealed_at, condemned)
    try:
        manifest = archive.sealed(version)
    except BytesDiffer as error:
        return Found(version, size_bytes, changed_at, None, condemned=False, unreadable=str(error))
    if manifest is None:
        return Found(version, size_bytes, changed_at, None, condemned=False)
    sealed[version] = manifest
    return Found(version, size_bytes, changed_at, manifest.sealed_at, condemned)


def _held(store: ObjectStore, state: State) -> dict[int, str]:
    """Return the versions that stay at any age, each with its reason."""
    held = _in_serving(store, state.model)
    if state.claim is not None and state.claim.phase != PHASE:
        held[state.claim.version] = f"{state.claim.holder} holds the claim for it"
    if state.release is not None and state.release.outcome == "running":
        held[state.release.version] = f"{state.release.holder} is releasing it"
    for role in ("standby", "canary", "stable"):
        placement = getattr(state, role)
        if placement is not None:
            held[placement.version] = f"{role} on {placement.fleet}"
    return held


def _in_serving(store: ObjectStore, model: str) -> dict[int, str]:
    """Return the versions that any fleet's prefix has: whatever Triton may read, the ledger's word or not."""
    found = {}
    for entry in store.objects("serving/"):
        _, pair, fleet, name, *rest = [*entry.key.split("/"), "", "", ""]
        if owner_of(name) == model and rest[0].isdigit():
            found[int(rest[0])] = f"its files lie in serving/{pair}/{fleet}"
    return found


def _refuse(state: State, now: datetime, lease_s: float) -> None:
    """Refuse while a release is under way, also one that is held, or silent between two of its tasks."""
    if state.canary is not None:
        raise CanaryLive(state.model, state.canary.version, state.canary.fleet)
    claim = state.claim
    if claim is None:
        return
    held = claim.held_until is not None and claim.held_until > now
    grace_s = 0 if claim.phase == PHASE else GRACE_LEASES * lease_s
    if held or not is_free(claim, now, grace_s):
        raise ClaimHeld(state.model, claim.holder, claim.phase, (claim.expires_at - now).total_seconds())


@contextmanager
def _claim_given_back(step: Step) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            step.update(claim=None)
        except ReleaseError as error:  # superseded, or the store is gone: the lease ends by itself
            log.warning("the claim of %s was not given back: %s", step.model, error)


def _delete(step: Step, seen: Survey, now: datetime) -> Pruning:
    done = Pruning(step.model, dry_run=False, versions=seen.verdicts)
    for verdict in seen.going:
        objects = seen.objects[verdict.version]
        if verdict.sealed:
            _condemn(step, verdict, seen.manifests.get(verdict.version), now)
        for entry in _in_order(step.archive, verdict.version, objects):
            step.check()
            step.store.delete(entry.key)
            done.freed_bytes += entry.size_bytes
    for upload in seen.uploads:
        step.check()
        step.store.abort_upload(upload)
        done.uploads.append(upload.key)
    return done


def _condemn(step: Step, verdict: Verdict, manifest: Manifest | None, now: datetime) -> None:
    """Say in the ledger, then in the archive, that a sealed version goes; then note it as an event, once."""
    version = verdict.version

    def decided(state: State) -> State:
        return state.model_copy(update={"pruned": sorted({*state.pruned, version})})

    begun = version in step.claim.check().pruned
    step.claim.change(decided)
    marker = step.archive.mark_pruned(_marker(step, verdict, manifest, now), step.check) if manifest else None
    if not (begun and _is_noted(step, version)):
        facts = {"release_digest": marker.release_digest, "source": marker.source.uri} if marker else {}
        step.event("pruned", version=version, reason=verdict.why, freed_bytes=verdict.size_bytes, **facts)


def _is_noted(step: Step, version: int) -> bool:
    """Say whether a prune that was killed came as far as its event."""
    events = Events(step.store, step.model).read()
    return any(each["what"] == "pruned" and each.get("version") == version for each in events)


def _marker(step: Step, verdict: Verdict, manifest: Manifest, now: datetime) -> Pruned:
    return Pruned(
        model=step.model,
        version=manifest.version,
        at=now,
        by=step.release.by or step.release.run_id,
        why=verdict.why,
        run_id=step.release.run_id,
        source=manifest.source,
        spec_digest=manifest.spec_digest,
        release_digest=manifest.release_digest,
        sealed_at=manifest.sealed_at,
    )


def _in_order(archive: Archive, version: int, objects: list[StoredObject]) -> list[StoredObject]:
    """Manifests first, tuned before base, so that no reader finds a seal without its files; the marker stays."""
    seals = [archive.manifest_key(version, part) for part in ("tuned", "base")]
    rest = [each for each in objects if each.key != archive.marker_key(version)]
    return sorted(rest, key=lambda each: (seals.index(each.key) if each.key in seals else len(seals), each.key))

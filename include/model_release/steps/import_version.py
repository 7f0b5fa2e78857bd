"""import: a version that was sealed elsewhere, by its digest, so that what was built once in staging serves here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model_release.environment import Environment
from model_release.errors import CanaryLive, ClaimHeld, DigestDiffers, ReleaseError, VersionPruned
from model_release.identity import Kind, Release
from model_release.ledger.events import Events
from model_release.ledger.state import State, StateFile
from model_release.repository.archive import Part
from model_release.repository.manifest import Manifest, digest_of
from model_release.repository.probe import require_verbs
from model_release.repository.signatures import Signatures
from model_release.repository.store import ObjectStore
from model_release.repository.transfer import Transfer, way_between
from model_release.steps.context import Step, begin, read_frozen_spec
from model_release.steps.orphan import GRACE_LEASES, is_free

PHASE = "import"
_TOLD = ("at", "what", "run", "by", "reason", "stage", "verdict")

log = logging.getLogger(__name__)


def run(
    model: str, version: int, digest: str, source: Environment, environment: Environment, *, run_id: str, by: str = ""
) -> dict[str, Any]:
    """
    Bring a sealed version with its signatures, frozen spec and history; what is here already is not brought again.

    `digest` is the version's (`manifest.digest_of`), which names every byte of its parts. Where signatures are required
    here, those of the source have to be by a signer that is pinned here. Nothing serves by it: a restore does that.
    Raises VersionNotFound, DigestDiffers, SignatureMissing, SignatureInvalid, BytesDiffer, VersionTaken,
    VersionPruned, ClaimHeld and CanaryLive while a release is under way, Superseded.
    """
    require_verbs(environment.s3)
    there, here = ObjectStore(source.s3), ObjectStore(environment.s3)
    signatures = Signatures(there, model, environment.signing)
    parts = {manifest.part: (body, manifest) for body, manifest in signatures.parts(version)}
    base = parts["base"][1]
    got = digest_of({part: body for part, (body, _) in parts.items()})
    if got != digest:
        raise DigestDiffers(model, version, _place(source), got, digest)
    signatures.require_signer_of(version)
    state = StateFile(here, model).read()
    if version in state.pruned:
        raise VersionPruned(model, version)
    _refuse_busy(state, environment.lease_s, here)
    way = way_between(source.s3, environment.s3)
    transfer = Transfer(model, there, here, way)
    asked = Release(model, version, Kind.BUILD, run_id, reason=f"import from {_place(source)}", by=by)
    with begin(asked, environment, PHASE, begins=True) as step, _claim_given_back(step):
        _refuse_canary(step.claim.check())  # it may have come since
        _bring_spec(step, there, base)
        brought = [part for part, (body, manifest) in parts.items() if transfer.bring(part, body, manifest, step.check)]
        facts = _facts(source, there, digest, {part: manifest for part, (_, manifest) in parts.items()})
        if not _is_noted(step, digest):
            step.event("imported", **facts)
    return {"model": model, "version": version, "brought": brought, "way": way, **facts}


def _place(environment: Environment) -> str:
    s3 = environment.s3
    return "/".join(filter(None, (f"s3://{s3.bucket}", s3.prefix))) + f" at {s3.endpoint_url}" * bool(s3.endpoint_url)


def _refuse_busy(state: State, lease_s: float, store: ObjectStore) -> None:
    """Refuse while a release is under way, also one that is held, silent between two of its tasks, or dead."""
    _refuse_canary(state)
    claim, now = state.claim, store.now()
    if claim is None:
        return
    held = claim.held_until is not None and claim.held_until > now
    if held or not is_free(claim, now, 0 if claim.phase == PHASE else GRACE_LEASES * lease_s):
        raise ClaimHeld(state.model, claim.holder, claim.phase, (claim.expires_at - now).total_seconds())


def _refuse_canary(state: State) -> None:
    """The claim would keep the guard from a canary whose release has died."""
    if state.canary is not None:
        raise CanaryLive(state.model, state.canary.version, state.canary.fleet)


@contextmanager
def _claim_given_back(step: Step) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            step.update(claim=None)
        except ReleaseError as error:  # superseded, or the store is gone: the lease ends by itself
            log.warning("the claim of %s was not given back: %s", step.model, error)


def _bring_spec(step: Step, there: ObjectStore, base: Manifest) -> None:
    """Copy the frozen spec as it lies there: its digest is of its keys and values, whatever a newer reader adds."""
    key = f"ledger/{step.model}/specs/{base.spec_digest}.json"
    read_frozen_spec(there, step.model, base.spec_digest)
    if not step.store.exists(key):
        body, _ = there.get(key)
        step.check()
        step.store.put(key, body)
    read_frozen_spec(step.store, step.model, base.spec_digest)


def _facts(source: Environment, there: ObjectStore, digest: str, parts: dict[Part, Manifest]) -> dict[str, Any]:
    """Return where the version is from, who sealed it and on what evidence, and what happened to it there."""
    base = parts["base"]
    rejection = StateFile(there, base.model).read().rejection_of(base.version)
    told = [event for event in Events(there, base.model).read() if event.get("version") == base.version]
    history = [{key: event[key] for key in _TOLD if event.get(key) not in (None, "")} for event in told]
    return {
        "origin": _place(source),
        "digest": digest,
        "source": base.source.model_dump(),
        "sealed_by": base.by or base.run_id,
        "sealed_at": base.sealed_at.isoformat(),
        "summary": {part: manifest.summary for part, manifest in parts.items()},
        "rejected_there": rejection.reason if rejection else None,
        "history": history,
    }


def _is_noted(step: Step, digest: str) -> bool:
    """Say whether an import that was killed came as far as its event, or there was one before."""
    events = Events(step.store, step.model).read()
    return any(event["what"] == "imported" and event.get("digest") == digest for event in events)

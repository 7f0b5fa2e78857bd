"""sign: a person's word for a version that was sealed without a signature, or whose signer is believed no longer."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.errors import SignerMissing
from model_release.identity import Kind, Release
from model_release.ledger.state import StateFile
from model_release.repository.signatures import Signatures
from model_release.repository.store import ObjectStore
from model_release.steps.context import record


def run(model: str, version: int, environment: Environment, *, run_id: str, by: str) -> dict[str, Any]:
    """
    Sign the sealed parts of a version, after reading each of their bytes; it takes no claim, nothing serves by it.

    Raises SignerMissing, SigningKeyUnusable, VersionNotFound, BytesDiffer.
    """
    if not environment.signing.signs:
        raise SignerMissing
    store = ObjectStore(environment.s3)
    keys = Signatures(store, model, environment.signing).sign_sealed(version)
    signer = Release(model, version, Kind.RESTORE, run_id, reason="it was signed as it lies in the archive", by=by)
    record(store, signer, StateFile(store, model).read().epoch, "signed", {"signatures": keys})
    return {"model": model, "version": version, "signatures": keys}

"""
Whose word it is that a sealed version is what was released.

A signature lies beside the version's parts, so that a part's folder is what was signed, under the part's name, the
sha256 of the manifest.json that it signs, and its key. It is written before the manifest, so no sealed part lacks it;
of two writers that race neither overwrites the other's, and the loser's signs a manifest that nobody reads. A part may
have several: one of a pinned key is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from model_release.environment import Signing
from model_release.errors import BytesDiffer, SignatureInvalid, SignatureMissing, VersionNotFound
from model_release.repository import manifest as manifests
from model_release.repository import signing as signed
from model_release.repository.archive import PARTS, Archive, Part
from model_release.repository.manifest import FileEntry, Manifest
from model_release.repository.store import KeyAbsent, ObjectStore


class Signatures:
    """The signatures of one model's versions, made and believed as an environment says."""

    def __init__(self, store: ObjectStore, model: str, signing: Signing) -> None:
        self._store = store
        self._model = model
        self._signing = signing
        self._archive = Archive(store, model)
        self._believed: dict[int, Manifest] = {}

    def folder(self, version: int, part: Part | None = None) -> str:
        """Return the prefix of the keys of a version's signatures, or of those of one part."""
        return f"archive/{self._model}/{version}/signatures/" + (f"{part}/" if part else "")

    def sign(self, manifest: Manifest, check: Callable[[], None]) -> str | None:
        """
        Sign a part that is about to be sealed, if the environment has a signer; returns the signature's key.

        Raises SigningKeyUnusable; then nothing is sealed.
        """
        if not self._signing.signs:
            return None
        return self._write(manifests.body_of(manifest), manifest, check)

    def sign_sealed(self, version: int) -> list[str]:
        """
        Sign the parts of a version that is sealed already, after reading each of its bytes; returns the keys.

        Who signs says that these bytes are right. Raises VersionNotFound, BytesDiffer, SignerMissing,
        SigningKeyUnusable.
        """
        parts = self.parts(version)
        for _, manifest in parts:
            self._read_all(manifest)
        return [self._write(body, manifest, lambda: None) for body, manifest in parts]

    def require_signer_of(self, version: int) -> None:
        """
        Demand a pinned signer of each part, if the environment does; the files themselves are not read.

        Raises VersionNotFound, SignatureMissing, SignatureInvalid.
        """
        if self._signing.require:
            self._signed_parts(version)

    def require(self, base: Manifest) -> None:
        """
        Demand a pinned signer of each part and read every byte of them, once, if the environment requires signatures.

        It costs a download of the version to this machine, file by file; a CRC would not do, since who can write to S3
        can make bytes of any CRC. Raises VersionNotFound, SignatureMissing, SignatureInvalid, BytesDiffer.
        """
        if not self._signing.require:
            return
        if base.version not in self._believed:
            parts = self._signed_parts(base.version)
            for manifest in parts:
                self._read_all(manifest)
            self._believed[base.version] = parts[0]
        if self._believed[base.version] != base:
            key = self._archive.manifest_key(base.version, "base")
            raise BytesDiffer(key, "another manifest than was verified", "the one that is signed")

    def parts(self, version: int) -> list[tuple[bytes, Manifest]]:
        """
        Return the sealed parts, base first, as they lie there.

        Raises VersionNotFound, BytesDiffer, and SignatureInvalid when tuned is of another base.
        """
        base = self._archive.require(version)
        found = [part for part in (self._archive.seal_of(version, name) for name in PARTS) if part]
        if not found or found[0][1] != base:
            raise VersionNotFound(self._model, version, self._archive.versions())
        for _, manifest in found[1:]:
            if (manifest.source, manifest.spec_digest) != (base.source, base.spec_digest):
                key = self._archive.manifest_key(version, manifest.part)
                why = f"it is of source {manifest.source.sha256}, and base of {base.source.sha256}"
                raise SignatureInvalid(key, why, [str(path) for path in self._signing.trusted])
        return found

    def _signed_parts(self, version: int) -> list[Manifest]:
        parts = self.parts(version)
        for body, manifest in parts:
            self._believe(body, manifest)
        return [manifest for _, manifest in parts]

    def _believe(self, body: bytes, manifest: Manifest) -> None:
        """Find a signature of the manifest, as it lies there, by a pinned key."""
        key, reasons = self._archive.manifest_key(manifest.version, manifest.part), []
        pinned = [str(path) for path in self._signing.trusted]
        sums, folder = _sums(body, manifest.files), self.folder(manifest.version, manifest.part)
        found = self._store.objects(folder)
        if not found:
            raise SignatureMissing(self._model, manifest.version, manifest.part, pinned)
        own = f"{folder}{sha256(body).hexdigest()}."
        for entry in found:
            if not entry.key.startswith(own):
                continue
            try:
                signed.verify(self._signing.trusted, self._store.get(entry.key)[0], sums)
            except (signed.NotVerified, KeyAbsent) as error:
                reasons.append(f"{entry.key}: {error}")
            else:
                return
        raise SignatureInvalid(key, "; ".join(reasons) or "it is another manifest than was signed", pinned)

    def _read_all(self, manifest: Manifest) -> None:
        with TemporaryDirectory(prefix="model-release-verify-") as folder:
            for name in manifest.files:
                self._archive.read_sealed(manifest, name, Path(folder) / "file").unlink()

    def _write(self, body: bytes, manifest: Manifest, check: Callable[[], None]) -> str:
        made_by, bundle = signed.sign(self._signing, _sums(body, manifest.files))
        key = f"{self.folder(manifest.version, manifest.part)}{sha256(body).hexdigest()}.{made_by[:16]}.sig.json"
        check()
        self._store.put(key, bundle)
        return key


def _sums(body: bytes, files: Mapping[str, FileEntry]) -> dict[str, str]:
    """Return the sha256 of each file of the folder, manifest.json among them."""
    return {**{name: entry.sha256 for name, entry in files.items()}, manifests.NAME: sha256(body).hexdigest()}

"""
Every version ever sealed, immutable.

A part of a version is a folder of files and a manifest. Until the manifest is written nobody reads the files: what an
earlier try left is kept if its bytes are the same and replaced if not. The manifest is written last and only if absent.

A version that was pruned leaves a marker, for good: it is as absent as one that never was, and is never written again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from model_release.errors import BytesDiffer, StoreUnavailable, VersionNotFound, VersionPruned, VersionTaken
from model_release.repository import manifest as manifests
from model_release.repository import pruned as markers
from model_release.repository.manifest import FileEntry, Manifest
from model_release.repository.pruned import Pruned
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore, StoredObject

Part = Literal["base", "tuned"]
PARTS: tuple[Part, ...] = ("base", "tuned")
_TRIES = 5


class Archive:
    """The archive of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model

    def key(self, version: int, part: Part, name: str) -> str:
        """Return the key of a file of a version."""
        return f"archive/{self._model}/{version}/{part}/{name}"

    def sealed(self, version: int, part: Part = "base") -> Manifest | None:
        """
        Return the manifest of a sealed part, or None if it is not sealed, or was pruned.

        Raises BytesDiffer when the manifest itself is no manifest any more, or another version's.
        """
        found = self.seal_of(version, part)
        return None if found is None else found[1]

    def seal_of(self, version: int, part: Part) -> tuple[bytes, Manifest] | None:
        """Return a part's manifest as it lies there, too: what a signature is of. Raises as `sealed` does."""
        key = self.key(version, part, manifests.NAME)
        try:
            body, _ = self._store.get(key)
        except KeyAbsent:
            return None
        # After the manifest, since a marker is written before a manifest is deleted.
        if self._store.exists(self.marker_key(version)):
            return None
        try:
            manifest = Manifest.model_validate_json(body)
        except ValidationError:
            raise BytesDiffer(key, "something that is no manifest", "a manifest") from None
        if (manifest.model, manifest.version, manifest.part) != (self._model, version, part):
            got = f"the manifest of {manifest.model} version {manifest.version}, {manifest.part}"
            raise BytesDiffer(key, got, f"that of {self._model} version {version}, {part}")
        return body, manifest

    def marker_key(self, version: int) -> str:
        """Return the key that says of a version that it was pruned."""
        return f"archive/{self._model}/{version}/{markers.NAME}"

    def pruned(self, version: int) -> Pruned | None:
        """Return who pruned a version, when and why, or None if nobody did. Raises BytesDiffer."""
        key = self.marker_key(version)
        try:
            return Pruned.model_validate_json(self._store.get(key)[0])
        except KeyAbsent:
            return None
        except ValidationError:
            raise BytesDiffer(key, "something that is no record of a pruning", "one") from None

    def mark_pruned(self, record: Pruned, check: Callable[[], None]) -> Pruned:
        """Say for good that a version is gone, unless somebody said so before; returns what is said of it."""
        check()
        with suppress(ConditionFailed):
            self._store.put(self.marker_key(record.version), record.model_dump_json(indent=1).encode(), if_absent=True)
        return self.pruned(record.version) or record

    def refuse_pruned(self, version: int) -> None:
        """Raise VersionPruned, which says who pruned the version and when."""
        found = self.pruned(version)
        if found is not None:
            raise VersionPruned(
                self._model, version, f"on {found.at:%Y-%m-%d} by {found.by}", found.why, found.source.uri
            )

    def versions(self) -> list[int]:
        """Return the sealed versions, oldest first."""
        names = self._store.folders(f"archive/{self._model}/")
        return sorted(int(name) for name in names if name.isdigit() and self.sealed(int(name)) is not None)

    def require(self, version: int) -> Manifest:
        """Return the manifest of a sealed version. Raises VersionPruned; VersionNotFound, listing what there is."""
        found = self.sealed(version)
        if found is None:
            self.refuse_pruned(version)
            raise VersionNotFound(self._model, version, self.versions())
        return found

    def write(self, version: int, part: Part, name: str, path: Path, check: Callable[[], None]) -> FileEntry:
        """
        Put a file into a part that is not sealed yet, and verify what S3 keeps of it.

        `check` raises when the claim is lost; it is called before anything of an earlier try is replaced.
        Raises BytesDiffer when S3 keeps other bytes, VersionTaken when the part was sealed meanwhile, VersionPruned.
        """
        entry, key = manifests.describe(path), self.key(version, part, name)
        for _ in range(_TRIES):
            kept = self._kept(key)
            if kept is not None and kept.crc64nvme == entry.crc64nvme:
                return entry
            sealed = self.sealed(version, part)
            if sealed is not None:
                raise VersionTaken(self._model, version, f"{sealed.source.uri} by {sealed.run_id}", str(path.name))
            self.refuse_pruned(version)
            check()
            try:
                # On what was there before the check: who was paused since then may not write over another's file.
                self._store.upload(path, key, replaces=kept.etag if kept else None)
            except (ConditionFailed, KeyAbsent):
                continue
            self.compare(key, entry)
            return entry
        raise StoreUnavailable(key, f"others wrote it {_TRIES} times, while the claim was held")

    def _kept(self, key: str) -> StoredObject | None:
        try:
            return self._store.head(key)
        except KeyAbsent:
            return None

    def compare(self, key: str, entry: FileEntry) -> None:
        """Compare an object's CRC, as S3 keeps it, with the sealed one. Raises BytesDiffer."""
        try:
            kept = self._store.head(key)
        except KeyAbsent:
            raise BytesDiffer(key, "nothing", entry.crc64nvme) from None
        if kept.crc64nvme != entry.crc64nvme or kept.size_bytes != entry.size_bytes:
            got = f"crc64nvme {kept.crc64nvme} of {kept.size_bytes} bytes"
            raise BytesDiffer(key, got, f"crc64nvme {entry.crc64nvme} of {entry.size_bytes} bytes")

    def read(self, version: int, part: Part, name: str, to: Path) -> Path:
        """Download a file of a part that may still be unsealed. Raises KeyAbsent."""
        self._store.download(self.key(version, part, name), to)
        return to

    def holds(self, version: int, part: Part, name: str) -> bool:
        """Say whether a part, sealed or not, has a file of this name."""
        return self._store.exists(self.key(version, part, name))

    def read_sealed(self, manifest: Manifest, name: str, to: Path) -> Path:
        """Download a sealed file and verify its sha256. Raises BytesDiffer; then no file stays."""
        key, entry = self.key(manifest.version, manifest.part, name), manifest.files[name]
        try:
            self._store.download(key, to)
        except KeyAbsent:
            raise BytesDiffer(key, "nothing", entry.sha256) from None
        got = manifests.describe(to).sha256
        if got != entry.sha256:
            to.unlink()
            raise BytesDiffer(key, f"sha256 {got}", f"sha256 {entry.sha256}")
        return to

    def seal(self, manifest: Manifest, check: Callable[[], None], body: bytes | None = None) -> Manifest:
        """
        Seal a part by one conditional write, after its objects were compared with the manifest.

        `body` is what is written, for a manifest that was sealed elsewhere; its signatures are of those bytes.

        Of two tries one wins; the other gets the winner's manifest if it is of the same source.
        Raises VersionTaken when it is of another source, BytesDiffer when an object is not what was written,
        VersionPruned.
        """
        self.refuse_pruned(manifest.version)
        for name, entry in manifest.files.items():
            self.compare(self.key(manifest.version, manifest.part, name), entry)
        self._clear_leftovers(manifest, check)
        body = body or manifests.body_of(manifest)
        check()
        try:
            self._store.put(self.key(manifest.version, manifest.part, manifests.NAME), body, if_absent=True)
        except ConditionFailed:
            winner = self.sealed(manifest.version, manifest.part)
            if winner is None or winner.source.sha256 != manifest.source.sha256:
                sealed_from = winner.source.sha256 if winner else "an unknown source"
                raise VersionTaken(self._model, manifest.version, sealed_from, manifest.source.sha256) from None
            return winner
        return manifest

    def _clear_leftovers(self, manifest: Manifest, check: Callable[[], None]) -> None:
        wanted = {self.key(manifest.version, manifest.part, name) for name in (*manifest.files, manifests.NAME)}
        for entry in self._store.objects(self.key(manifest.version, manifest.part, "")):
            if entry.key not in wanted:
                check()
                with suppress(ConditionFailed):
                    self._store.delete(entry.key, if_match=entry.etag)

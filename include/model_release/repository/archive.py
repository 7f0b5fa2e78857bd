"""
Every version ever sealed, immutable.

A part of a version is a manifest and the files that it names, each under a key that holds the sha256 of its bytes. So
no writer can change what another has sealed, however late it wakes up: it can only write the same bytes, or a file that
no manifest names. The manifest is written last, and only if absent. What no manifest names is cleared after the seal;
before it nothing is deleted, since whoever is about to seal may have compared it already.

A version that was pruned leaves a marker, for good: it is as absent as one that never was, and is never written again.
"""

from __future__ import annotations

import time
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
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

Part = Literal["base", "tuned"]
PARTS: tuple[Part, ...] = ("base", "tuned")
_TRIES = 5
#: LastModified has a resolution of one second.
_TICK_S = 1.0


class Archive:
    """The archive of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model

    def folder(self, version: int, part: Part) -> str:
        """Return the prefix of the keys of a part."""
        return f"archive/{self._model}/{version}/{part}/"

    def manifest_key(self, version: int, part: Part) -> str:
        """Return the key whose write seals a part."""
        return self.folder(version, part) + manifests.NAME

    def key(self, version: int, part: Part, name: str, entry: FileEntry) -> str:
        """Return the key of a file of a part, by what is in it."""
        return f"{self.folder(version, part)}{entry.sha256}/{name}"

    def key_in(self, manifest: Manifest, name: str) -> str:
        """Return the key of a sealed file, also of a part that was sealed before each file lay under its sha256."""
        if manifest.schema_version == 1:
            return self.folder(manifest.version, manifest.part) + name
        return self.key(manifest.version, manifest.part, name, manifest.files[name])

    def sealed(self, version: int, part: Part = "base") -> Manifest | None:
        """
        Return the manifest of a sealed part, or None if it is not sealed, or was pruned.

        Raises BytesDiffer when the manifest itself is no manifest any more, or another version's.
        """
        found = self.seal_of(version, part)
        return None if found is None else found[1]

    def seal_of(self, version: int, part: Part) -> tuple[bytes, Manifest] | None:
        """Return a part's manifest as it lies there, too: what a signature is of. Raises as `sealed` does."""
        key = self.manifest_key(version, part)
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
        Put a file into a part that is not sealed yet, and verify what S3 keeps of it; it is then what `find` finds.

        `check` raises when the claim is lost; it is called before every write.
        Raises BytesDiffer when S3 keeps other bytes, VersionTaken when the part was sealed meanwhile, VersionPruned.
        """
        entry = manifests.describe(path)
        key = self.key(version, part, name, entry)
        for tries in range(_TRIES):
            if tries > 1:
                time.sleep(_TICK_S)  # another try wrote that name in the same second
            if self._newest(version, part, name) == key and self.is_kept(key, entry):
                return entry
            sealed = self.sealed(version, part)
            if sealed is not None:
                self._clear_leftovers(sealed)
                raise VersionTaken(self._model, version, f"{sealed.source.uri} by {sealed.run_id}", str(path.name))
            self.refuse_pruned(version)
            check()
            self._store.upload(path, key)
        self.compare(key, entry)
        raise StoreUnavailable(key, f"others wrote {name} {_TRIES} times, while the claim was held")

    def find(self, version: int, part: Part, name: str) -> str | None:
        """Return the key of a file: the sealed one, or of a part that is not sealed what was written last; or None."""
        sealed = self.sealed(version, part)
        if sealed is None:
            return self._newest(version, part, name)
        return self.key_in(sealed, name) if name in sealed.files else None

    def _newest(self, version: int, part: Part, name: str) -> str | None:
        root = self.folder(version, part)
        found = [each for each in self._store.objects(root) if each.key.removeprefix(root).partition("/")[2] == name]
        return max(found, key=lambda each: (each.last_modified, each.key)).key if found else None

    def is_kept(self, key: str, entry: FileEntry) -> bool:
        """Say whether an object is there, and S3 keeps its size and CRC as they were sealed."""
        try:
            self.compare(key, entry)
        except BytesDiffer:
            return False
        return True

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
        """Download a file of a part that may still be unsealed, as `find` finds it. Raises KeyAbsent."""
        key = self.find(version, part, name)
        if key is None:
            raise KeyAbsent(f"{self.folder(version, part)}*/{name}")
        self._store.download(key, to)
        return to

    def read_sealed(self, manifest: Manifest, name: str, to: Path) -> Path:
        """Download a sealed file and verify its sha256. Raises BytesDiffer; then no file stays."""
        key, entry = self.key_in(manifest, name), manifest.files[name]
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
        version, part = manifest.version, manifest.part
        self.refuse_pruned(version)
        try:
            for name, entry in manifest.files.items():
                self.compare(self.key_in(manifest, name), entry)
        except BytesDiffer:
            if self.sealed(version, part) is None:
                raise
        else:
            check()
            with suppress(ConditionFailed):
                self._store.put(self.manifest_key(version, part), body or manifests.body_of(manifest), if_absent=True)
        winner = self.sealed(version, part)
        if winner is None:
            self.refuse_pruned(version)
            raise BytesDiffer(self.manifest_key(version, part), "nothing", "a manifest")
        self._clear_leftovers(winner)
        if winner.source.sha256 != manifest.source.sha256:
            raise VersionTaken(self._model, version, winner.source.sha256, manifest.source.sha256)
        return winner

    def _clear_leftovers(self, sealed: Manifest) -> None:
        """Delete what the manifest of a sealed part does not name; nobody reads it, whoever holds the claim."""
        named = {self.key_in(sealed, name) for name in sealed.files} | {self.manifest_key(sealed.version, sealed.part)}
        for entry in self._store.objects(self.folder(sealed.version, sealed.part)):
            if entry.key not in named:
                self._store.delete(entry.key)

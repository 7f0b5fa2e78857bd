"""
The serving prefixes: what each fleet's Tritons read, one version a model.

config.pbtxt is written last, since it is what makes Triton serve a version. Triton sees a change only by a rise of
LastModified, which has a resolution of one second (core's ModelTimestamp): each write waits for a new second.

config.pbtxt is replaced and deleted by compare-and-swap: its text carries the epoch, so S3 itself refuses a writer that
was paused after its check while a newer epoch wrote. Copies and deletes of a version's files have no such token: equal
bytes have equal ETags. A writer that wakes up there does one of them before its next check, and the guard heals it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from model_release.errors import StoreUnavailable
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

CONFIG = "config.pbtxt"
MODEL_FILE = "model.onnx"
#: The weights of a model that is too large for one file.
MODEL_DATA = "model.onnx.data"
#: What the pytorch backend serves.
TORCHSCRIPT_FILE = "model.pt"
WARMUP = "warmup/"
_SECOND_DEADLINE_S = 10
_TRIES = 5


class ServingPrefix:
    """One fleet's prefix, and one model in it."""

    def __init__(self, store: ObjectStore, pair: str, fleet: str, model: str) -> None:
        self._store = store
        self._root = f"serving/{pair}/{fleet}/{model}/"

    def config(self) -> str | None:
        """Return the text of config.pbtxt, or None when the prefix does not have the model."""
        try:
            return self._store.get(self._root + CONFIG)[0].decode()
        except KeyAbsent:
            return None

    def versions(self) -> list[int]:
        """Return the version folders that lie there, oldest first."""
        return sorted(int(name) for name in self._store.folders(self._root) if name.isdigit())

    def is_empty(self) -> bool:
        """Say whether nothing of the model lies there; some stores go on listing a folder whose objects are gone."""
        return not self._store.objects(self._root)

    def place(self, archive: Archive, manifest: Manifest, check: Callable[[], None]) -> None:
        """
        Copy the sealed model and its warm-up samples, on the server, and compare each copy's CRC.

        What is served does not change: config.pbtxt still names the version before. Raises BytesDiffer.
        """
        for name, target in self._places(manifest).items():
            entry, source = manifest.files[name], archive.key(manifest.version, manifest.part, name)
            archive.compare(source, entry)
            check()
            self._store.copy(source, target)
            archive.compare(target, entry)

    def compare(self, archive: Archive, manifest: Manifest) -> None:
        """Compare the CRC of every file that serves the version with the sealed one. Raises BytesDiffer."""
        for name, target in self._places(manifest).items():
            archive.compare(target, manifest.files[name])

    def _places(self, manifest: Manifest) -> dict[str, str]:
        """Return where each sealed file that Triton reads has its place; several files share a folder."""
        folder = f"{self._root}{manifest.version}/" + (f"{MODEL_FILE}/" if MODEL_DATA in manifest.files else "")
        return {
            name: (self._root if name.startswith(WARMUP) else folder) + name
            for name in manifest.files
            if name in (MODEL_FILE, MODEL_DATA, TORCHSCRIPT_FILE) or name.startswith(WARMUP)
        }

    def reserve(self, text: str, check: Callable[[], None]) -> None:
        """Where no config is, write one that serves nothing: the next can then replace just this one, and no other."""
        if self.config() is None:
            self._replace_config(text, check)

    def write_config(self, text: str, check: Callable[[], None]) -> None:
        """
        Write config.pbtxt in a second of its own: from then on a newborn replica serves what it says.

        `check` raises when the claim is lost, also when another config was written since.
        """
        self._await_new_second()
        self._replace_config(text, check)

    def keep_only(self, version: int, check: Callable[[], None]) -> None:
        """Delete the other versions' objects; Triton does not notice, its config names `version`."""
        for other in self.versions():
            if other != version:
                self._delete(f"{self._root}{other}/", check)

    def delete(self, check: Callable[[], None]) -> None:
        """Delete the model's objects, config.pbtxt first, so that no newborn finds a config without its files."""
        self._swap_config(check, self._delete_config)
        self._delete(self._root, check)

    def _delete_config(self, etag: str | None) -> None:
        if etag is not None:
            self._store.delete(self._root + CONFIG, if_match=etag)

    def _replace_config(self, text: str, check: Callable[[], None]) -> None:
        key, body = self._root + CONFIG, text.encode()
        self._swap_config(check, lambda etag: self._store.put(key, body, if_absent=etag is None, if_match=etag))

    def _swap_config(self, check: Callable[[], None], swap: Callable[[str | None], object]) -> None:
        """Replace or delete the config that was there before the check. Raises what `check` raises."""
        for _ in range(_TRIES):
            etag = self._config_etag()
            check()
            try:
                swap(etag)
            except (ConditionFailed, KeyAbsent):
                continue  # another wrote it, or a retry met its own first try: it is checked and done again
            return
        raise StoreUnavailable(self._root + CONFIG, f"its condition was lost {_TRIES} times, with the claim in hand")

    def _config_etag(self) -> str | None:
        try:
            return self._store.head(self._root + CONFIG).etag
        except KeyAbsent:
            return None

    def _delete(self, prefix: str, check: Callable[[], None]) -> None:
        for entry in self._store.objects(prefix):
            check()
            self._store.delete(entry.key)

    def _await_new_second(self) -> None:
        newest = max((entry.last_modified for entry in self._store.objects(self._root)), default=None)
        deadline = time.monotonic() + _SECOND_DEADLINE_S
        while newest is not None and self._store.now() <= newest.replace(microsecond=0):
            if time.monotonic() > deadline:
                raise StoreUnavailable(self._root, "its clock does not move past the newest object's LastModified")
            time.sleep(0.1)

"""
The serving prefixes: what each fleet's Tritons read, one version a model.

config.pbtxt is written last, since it is what makes Triton serve a version. Triton sees a change only by a rise of
LastModified, which has a resolution of one second (core's ModelTimestamp): each write waits for a new second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from model_release.errors import StoreUnavailable
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest
from model_release.repository.store import KeyAbsent, ObjectStore

CONFIG = "config.pbtxt"
MODEL_FILE = "model.onnx"
#: The weights of a model that is too large for one file.
MODEL_DATA = "model.onnx.data"
WARMUP = "warmup/"
_SECOND_DEADLINE_S = 10


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

    def place(self, archive: Archive, manifest: Manifest, check: Callable[[], None]) -> None:
        """
        Copy the sealed model and its warm-up samples, on the server, and compare each copy's CRC.

        What is served does not change: config.pbtxt still names the version before. Raises BytesDiffer.
        """
        several = MODEL_DATA in manifest.files
        for name, entry in manifest.files.items():
            if name in (MODEL_FILE, MODEL_DATA):
                # Several files lie in a folder that has the name of the one.
                folder = f"{manifest.version}/{MODEL_FILE}" if several else str(manifest.version)
                target = f"{self._root}{folder}/{name}"
            elif name.startswith(WARMUP):
                target = self._root + name
            else:
                continue
            source = archive.key(manifest.version, manifest.part, name)
            archive.compare(source, entry)
            check()
            self._store.copy(source, target)
            archive.compare(target, entry)

    def write_config(self, text: str, check: Callable[[], None]) -> None:
        """Write config.pbtxt in a second of its own: from then on a newborn replica serves what it says."""
        self._await_new_second()
        check()
        self._store.put(self._root + CONFIG, text.encode())

    def keep_only(self, version: int, check: Callable[[], None]) -> None:
        """Delete the other versions' objects; Triton does not notice, its config names `version`."""
        for other in self.versions():
            if other != version:
                self._delete(f"{self._root}{other}/", check)

    def delete(self, check: Callable[[], None]) -> None:
        """Delete the model's objects, config.pbtxt first, so that no newborn finds a config without its files."""
        check()
        self._store.delete(self._root + CONFIG)
        self._delete(self._root, check)

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

"""
The serving prefixes: what each fleet's Tritons read, one version a model.

config.pbtxt is written last, since it is what makes Triton serve a version. Triton sees a change only by a rise of
LastModified, which has a resolution of one second (core's ModelTimestamp): each write waits for a new second.

config.pbtxt is replaced and deleted by compare-and-swap: its text carries the epoch, so S3 itself refuses a writer that
was paused after its check while a newer epoch wrote. Copies and deletes of a version's files have no such token: equal
bytes have equal ETags. A writer that wakes up there does one of them before its next check, and the guard heals it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from datetime import datetime

from model_release.errors import BytesDiffer, StoreUnavailable
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore
from model_release.spec import owner_of, part_model
from model_release.spec_files import PART_MODEL_FILE

CONFIG = "config.pbtxt"
MODEL_FILE = "model.onnx"
#: The weights of a model that is too large for one file.
MODEL_DATA = "model.onnx.data"
#: What the pytorch backend serves.
TORCHSCRIPT_FILE = "model.pt"
#: What the tensorrt backend serves, in place of the ONNX file that it was built of.
ENGINE_FILE = "model.plan"
#: What an engine was built of, by what, and for which shapes.
ENGINE_FACTS = "engine.json"
WARMUP = "warmup/"
#: In the archive, the folder with a folder for each part of an ensemble.
PARTS = "parts/"
#: What each part of an ensemble was made of.
PARTS_FILE = "parts.json"
EMPTY = ".keep"
_SECOND_DEADLINE_S = 10
_TRIES = 5


def folder_of_part(part: str) -> str:
    """Return where a part's files lie among those of a sealed version; of an empty name the model's own."""
    return f"{PARTS}{part}/" if part else ""


def parts_of(manifest: Manifest) -> list[str]:
    """Return the parts of a sealed version; none unless it is an ensemble."""
    names = {name.split("/")[1] for name in manifest.files if name.startswith(PARTS)}
    return sorted(names)


def is_ensemble(manifest: Manifest) -> bool:
    """Say whether a sealed version is an ensemble, which has files in its parts alone."""
    return bool(parts_of(manifest))


class ServingPrefix:
    """
    One fleet's prefix, and one model in it.

    Of an ensemble, all but the verbs of config.pbtxt are of its parts' folders too: `<model>__<part>/`, beside its own.
    """

    def __init__(self, store: ObjectStore, pair: str, fleet: str, model: str) -> None:
        self._store = store
        self._fleet_root, self._model = f"serving/{pair}/{fleet}/", model
        self._root = f"{self._fleet_root}{model}/"

    def part(self, name: str) -> ServingPrefix:
        """Return the folder of an ensemble's part; of an empty name the model's own."""
        if not name:
            return self
        other = copy.copy(self)
        other._model = part_model(self._model, name)
        other._root = f"{self._fleet_root}{other._model}/"
        return other

    def parts(self) -> dict[str, ServingPrefix]:
        """Return the folders of parts that lie there, by part; also those of a version before."""
        before = part_model(self._model, "")
        if owner_of(self._model) != self._model:
            return {}
        names = [name for name in self._store.folders(self._fleet_root) if name.startswith(before)]
        return {name.removeprefix(before): self.part(name.removeprefix(before)) for name in names}

    def config(self) -> str | None:
        """Return the text of config.pbtxt, or None when the prefix does not have the model."""
        try:
            return self._store.get(self._root + CONFIG)[0].decode()
        except KeyAbsent:
            return None

    def versions(self) -> list[int]:
        """Return the versions of which something lies there, oldest first."""
        names = {entry.key.removeprefix(self._root).split("/")[0] for entry in self._store.objects(self._root)}
        return sorted(int(name) for name in names if name.isdigit())

    def is_empty(self) -> bool:
        """Say whether nothing of the model lies there; some stores go on listing a folder whose objects are gone."""
        return not self._store.objects(self._root) and all(part.is_empty() for part in self.parts().values())

    def place(self, archive: Archive, manifest: Manifest, check: Callable[[], None]) -> None:
        """
        Copy the sealed model and its warm-up samples, on the server, and compare each copy's CRC.

        What is served does not change: config.pbtxt still names the version before. Raises BytesDiffer.
        """
        for name, target in self._places(manifest).items():
            entry, source = manifest.files[name], archive.key_in(manifest, name)
            archive.compare(source, entry)
            check()
            self._store.copy(source, target)
            archive.compare(target, entry)
        if is_ensemble(manifest):
            check()
            self._store.put(self._empty_version(manifest), b"")

    def compare(self, archive: Archive, manifest: Manifest) -> None:
        """Compare the CRC of every file that serves the version with the sealed one. Raises BytesDiffer."""
        for name, target in self._places(manifest).items():
            archive.compare(target, manifest.files[name])
        if is_ensemble(manifest) and not self._store.exists(self._empty_version(manifest)):
            raise BytesDiffer(
                self._empty_version(manifest), "nothing", "an empty object, for Triton to find the version"
            )

    def _empty_version(self, manifest: Manifest) -> str:
        """Return the key that makes an ensemble's version directory, in which Triton wants nothing, be there on S3."""
        return f"{self._root}{manifest.version}/{EMPTY}"

    def _places(self, manifest: Manifest) -> dict[str, str]:
        """Return where each sealed file that Triton reads has its place."""
        parts = {"": "", **{folder_of_part(part): part for part in parts_of(manifest)}}
        return {
            folder + name: target
            for folder, part in parts.items()
            for name, target in self.part(part)._places_of_one(manifest, folder).items()
        }

    def _places_of_one(self, manifest: Manifest, folder: str) -> dict[str, str]:
        """Return the places of one Triton model's files, by their names in its folder; several files share a folder."""
        names = [name.removeprefix(folder) for name in manifest.files if name.startswith(folder)]
        version = f"{self._root}{manifest.version}/"
        if PART_MODEL_FILE in names:
            return {name: version + name for name in names if name != CONFIG}
        served = (ENGINE_FILE,) if ENGINE_FILE in names else (MODEL_FILE, MODEL_DATA, TORCHSCRIPT_FILE)
        inner = version + (f"{MODEL_FILE}/" if MODEL_DATA in names and MODEL_DATA in served else "")
        return {
            name: (self._root if name.startswith(WARMUP) else inner) + name
            for name in names
            if name in served or name.startswith(WARMUP)
        }

    def reserve(self, text: str, check: Callable[[], None]) -> None:
        """Where no config is, write one that serves nothing: the next can then replace just this one, and no other."""
        if self.config() is None:
            self._replace_config(text, check)

    def write_config(self, text: str, check: Callable[[], None], *, after: datetime | None = None) -> None:
        """
        Write config.pbtxt in a second of its own, and past that of `after`: from then on a newborn replica serves
        what it says.

        `check` raises when the claim is lost, also when another config was written since.
        """
        self._await_new_second(after)
        self._replace_config(text, check)

    def keep_only(self, version: int, check: Callable[[], None]) -> None:
        """
        Delete the other versions' objects, and parts that `version` does not have.

        Triton does not notice: the configs name `version`, and no step of an ensemble such a part.
        """
        for other in self.versions():
            if other != version:
                self._delete(f"{self._root}{other}/", check)
        for part in self.parts().values():
            if version in part.versions():
                part.keep_only(version, check)
            else:
                part.delete(check)

    def delete(self, check: Callable[[], None]) -> None:
        """
        Delete the model's objects, config.pbtxt first, so that no newborn finds a config without its files.

        Of an ensemble its own config before those of its parts, without which it could not be loaded.
        """
        self._swap_config(check, self._delete_config)
        for part in self.parts().values():
            part.delete(check)
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

    def _await_new_second(self, after: datetime | None) -> None:
        passed = [entry.last_modified for entry in self._store.objects(self._root)]
        newest = max([*passed, after] if after else passed, default=None)
        deadline = time.monotonic() + _SECOND_DEADLINE_S
        while newest is not None and self._store.now() <= newest.replace(microsecond=0):
            if time.monotonic() > deadline:
                raise StoreUnavailable(self._root, "its clock does not move past the second of what has to be older")
            time.sleep(0.1)

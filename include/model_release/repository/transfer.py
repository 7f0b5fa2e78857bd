"""
A sealed version from another bucket, byte for byte: its files, then its signatures, then its manifest as it lies there.

Where one set of credentials reads both places the files are copied on the server; else they pass through this machine,
one at a time. In either case each has its sealed sha256 before the seal, and whatever of it is there already is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from model_release.environment import S3, Signing
from model_release.errors import BytesDiffer, VersionTaken
from model_release.repository import manifest as manifests
from model_release.repository.archive import Archive, Part
from model_release.repository.manifest import Manifest
from model_release.repository.signatures import Signatures
from model_release.repository.store import ObjectStore

Check = Callable[[], None]
Way = Literal["copied on the server", "streamed through this machine"]


def way_between(source: S3, target: S3) -> Way:
    """Say how bytes go from one place to the other: the same server and credentials can copy by themselves."""
    one, other = ((s3.endpoint_url, s3.region, s3.access_key_id) for s3 in (source, target))
    return "copied on the server" if one == other else "streamed through this machine"


class Transfer:
    """The way of one model's versions from one archive into another."""

    def __init__(self, model: str, source: ObjectStore, target: ObjectStore, way: Way) -> None:
        self._model = model
        self._stores = source, target
        self._archives = Archive(source, model), Archive(target, model)
        self._way = way

    def bring(self, part: Part, body: bytes, manifest: Manifest, check: Check) -> bool:
        """
        Bring a part and seal it by the very bytes that sealed it there; False if it was here already.

        Raises VersionTaken when another is sealed here, BytesDiffer when a file is not as it was sealed there.
        """
        if self._is_here(part, body, manifest):
            return False
        with TemporaryDirectory(prefix="model-release-import-") as folder:
            for name in manifest.files:
                self._bring_file(manifest, name, Path(folder) / "file", check)
        self._bring_signatures(body, manifest, check)
        self._archives[1].seal(manifest, check, body)
        if not self._is_here(part, body, manifest):  # another was sealed meanwhile, of the same source
            raise BytesDiffer(self._archives[1].manifest_key(manifest.version, part), "nothing", "a manifest")
        return True

    def _is_here(self, part: Part, body: bytes, manifest: Manifest) -> bool:
        here = self._archives[1].seal_of(manifest.version, part)
        if here is not None and here[0] != body:
            sealed = f"{here[1].source.sha256} by {here[1].run_id} ({part}/manifest.json {sha256(here[0]).hexdigest()})"
            asked = f"{manifest.source.sha256} ({part}/manifest.json {sha256(body).hexdigest()})"
            raise VersionTaken(self._model, manifest.version, sealed, asked)
        return here is not None

    def _bring_file(self, manifest: Manifest, name: str, path: Path, check: Check) -> None:
        if name == manifests.NAME or ".." in name.split("/"):
            key = self._archives[0].manifest_key(manifest.version, manifest.part)
            raise BytesDiffer(key, f"a manifest that lists {name!r}", "files of the part")
        there, here = self._archives
        key, entry = here.key_in(manifest, name), manifest.files[name]
        kept = here.is_kept(key, entry)
        if not kept and self._way == "streamed through this machine":
            there.read_sealed(manifest, name, path)
            check()
            self._stores[1].upload(path, key)
            path.unlink()
            here.compare(key, entry)
            return
        if not kept:
            check()
            self._stores[1].copy_from(self._stores[0], there.key_in(manifest, name), key)
        # What a server copied, or an earlier try left, nobody has read yet.
        here.read_sealed(manifest, name, path).unlink()

    def _bring_signatures(self, body: bytes, manifest: Manifest, check: Check) -> None:
        source, target = self._stores
        folder = Signatures(source, self._model, Signing()).folder(manifest.version, manifest.part)
        for entry in source.objects(f"{folder}{sha256(body).hexdigest()}."):
            bundle, _ = source.get(entry.key)
            check()
            target.put(entry.key, bundle)

"""Versions that were built once and are sealed again for each model: a test of a canary need not build its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from model_release.environment import Environment
from model_release.repository.archive import PARTS, Archive, Part
from model_release.repository.manifest import Manifest
from model_release.repository.serving import CONFIG
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, export, plan, publish, validate
from model_release.steps.context import freeze_spec
from model_release.triton import text
from tests.sandbox.releasing import Model, quick_spec, remove


@dataclass
class Built:
    """What a release has sealed of a version: the manifests of both parts, and the folders with their files."""

    manifests: dict[Part, Manifest]
    folder: Path


class Shelf:
    """The versions that were built in this session, each by the real steps when it is first asked for."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self._environment, self._folder = environment, folder
        self._built: dict[int, Built] = {}

    def seal(self, model: Model, versions: Iterable[int]) -> None:
        """Have versions in a model's archive as if it had built and benchmarked them itself, under its own name."""
        for version in versions:
            if version not in self._built:
                self._built[version] = self._build(version)
            _seal(model, self._built[version])

    def _build(self, version: int) -> Built:
        model = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), self._environment)
        release = model.build(version)
        plan.run(release, model.environment, model.spec)
        for step in (export, validate, publish, benchmark):
            step.run(release, model.environment)
        archive, folder = Archive(ObjectStore(self._environment.s3), model.name), self._folder / str(version)
        manifests: dict[Part, Manifest] = {}
        for part in PARTS:
            manifests[part] = manifest = _sealed(archive, version, part)
            for name in manifest.files:
                (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
                archive.read_sealed(manifest, name, folder / part / name)
        remove(model)
        return Built(manifests, folder)


def _sealed(archive: Archive, version: int, part: Part) -> Manifest:
    manifest = archive.sealed(version, part)
    assert manifest is not None, f"{part} of {version} was not sealed"
    return manifest


def _seal(model: Model, built: Built) -> None:
    store = ObjectStore(model.environment.s3)
    archive, digest = Archive(store, model.name), freeze_spec(store, model.spec, _unclaimed)
    for part, manifest in built.manifests.items():
        config = text.parse((built.folder / part / CONFIG).read_text())
        config.name = model.name
        config.parameters[text.RELEASE_DIGEST].string_value = text.release_digest(config)
        with TemporaryDirectory() as name:
            renamed = Path(name) / CONFIG
            renamed.write_text(text.render(config, epoch=0))
            paths = {file: built.folder / part / file for file in manifest.files} | {CONFIG: renamed}
            files = {
                file: archive.write(manifest.version, part, file, path, _unclaimed) for file, path in paths.items()
            }
        own = {"model": model.name, "files": files, "spec_digest": digest}
        archive.seal(manifest.model_copy(update={**own, "release_digest": text.release_digest(config)}), _unclaimed)


def _unclaimed() -> None:
    """Nobody else knows a model that a test has just made."""

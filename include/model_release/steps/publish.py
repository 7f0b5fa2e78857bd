"""publish: config.pbtxt and the manifest, whose write seals the version."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.build import PAGE, PARITY, RECORDED, WORST
from model_release.environment import Environment
from model_release.errors import BytesDiffer
from model_release.identity import Release
from model_release.parity.report import ParityReport
from model_release.repository import manifest as manifests
from model_release.repository.manifest import FileEntry, Manifest, SourceEntry
from model_release.repository.serving import CONFIG, ENGINE_FACTS, ENGINE_FILE, PARTS_FILE, WARMUP, folder_of_part
from model_release.spec import ModelSpec
from model_release.steps.context import Step, begin
from model_release.triton.bundle import build_bundle


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Seal the version: what validate proved, and the config that serves it.

    Raises VersionTaken, BytesDiffer when an ONNX file is not the one that was proved, and what the proof found when
    it did not hold; SigningKeyUnusable.
    """
    with begin(release, environment, "publish") as step, TemporaryDirectory() as name:
        sealed = step.archive.sealed(release.version)
        if sealed is not None:
            return {"already_sealed": True, "release_digest": sealed.release_digest}
        folder, spec, version = Path(name), step.spec, release.version
        bundle = build_bundle(spec, version)
        for part, text in bundle.texts(epoch=0).items():
            (folder / CONFIG).write_text(text)
            step.archive.write(version, "base", folder_of_part(part) + CONFIG, folder / CONFIG, step.check)
        report = ParityReport.model_validate_json(
            step.archive.read(version, "base", PARITY, folder / PARITY).read_bytes()
        )
        names = [*report.onnx.files, RECORDED, *_proved_files(spec)]
        if spec.serving.is_engine:
            names += [ENGINE_FILE, ENGINE_FACTS]
        names += [folder_of_part(part) + CONFIG for part in bundle.by_part]
        names += [file for file in _files_for_people(spec) if step.archive.find(version, "base", file)]
        files = {
            file: manifests.describe(step.archive.read(version, "base", file, folder / "download")) for file in names
        }
        for file, proved in report.onnx.files.items():
            if files[file].sha256 != proved:
                key = step.archive.key(version, "base", file, files[file])
                raise BytesDiffer(key, files[file].sha256, f"{proved} (the one that was proved)")
        if ENGINE_FILE in files:
            _refuse_other_engine(step, files, report.onnx.files, folder)
        report.raise_for_failure()
        manifest = Manifest(
            model=release.model,
            version=version,
            part="base",
            contract=spec.contract,
            source=SourceEntry(**report.source.model_dump()),
            files=files,
            tools=manifests.tool_versions(),
            summary={"parity": report.summary()},
            spec_digest=spec.digest,
            release_digest=bundle.digest,
            run_id=release.run_id,
            sealed_at=step.store.now(),
            by=release.by,
        )
        step.signatures.sign(manifest, step.check)
        manifest = step.archive.seal(manifest, step.check)
        step.event("published", release_digest=manifest.release_digest, files=sorted(files))
        return {"already_sealed": False, "release_digest": manifest.release_digest}


def _refuse_other_engine(step: Step, files: dict[str, FileEntry], proved: dict[str, str], folder: Path) -> None:
    """Raise BytesDiffer for an engine that a try before the last built, or of another file than was proved last."""
    version = step.release.version
    facts = json.loads(step.archive.read(version, "base", ENGINE_FACTS, folder / ENGINE_FACTS).read_bytes())
    key = step.archive.key(version, "base", ENGINE_FILE, files[ENGINE_FILE])
    if facts["sha256"] != files[ENGINE_FILE].sha256:
        raise BytesDiffer(key, files[ENGINE_FILE].sha256, f"{facts['sha256']} (of {ENGINE_FACTS}): run validate again")
    if facts["onnx"] != proved:
        raise BytesDiffer(
            key, f"an engine of {facts['onnx']}", f"one of {proved}, which was proved: run validate again"
        )


def _proved_files(spec: ModelSpec) -> list[str]:
    """Return what validate left of the model, and of each part of an ensemble that has weights."""
    own = {"": spec} if spec.serving.ensemble is None else spec.model_parts
    warmups = [f"{folder_of_part(part)}{WARMUP}{tensor.name}" for part, one in own.items() for tensor in one.inputs]
    return [*warmups, *(folder_of_part(part) + PARITY for part in dict.fromkeys(["", *own]))]


def _files_for_people(spec: ModelSpec) -> list[str]:
    folders = [folder_of_part(part) for part in ("", *spec.model_parts)]
    return [PARTS_FILE, *(folder + file for folder in folders for file in (PAGE, WORST))]

"""The parts of an ensemble, built and proved within one release: what export and validate do for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from model_release import build, build_ensemble, parity
from model_release.build import RECORDED
from model_release.build_ensemble import BuiltPart, PartSource, PartSources, source_of_script
from model_release.errors import BadModelConfig, BytesDiffer, VersionTaken
from model_release.identity import date_of
from model_release.intake import FetchedCheckpoint, fetch_checkpoint
from model_release.repository import manifest as manifests
from model_release.repository.serving import MODEL_FILE, PARTS_FILE, folder_of_part
from model_release.spec import ModelSpec, render_template
from model_release.spec_files import files_of_part
from model_release.steps.against import against
from model_release.steps.context import Step
from model_release.steps.proofs import write_report, write_warmup

log = logging.getLogger(__name__)


def checkpoint_of(spec: ModelSpec, version: int) -> str:
    """Return the checkpoint that a part's config names for a version, by the version's date."""
    date = date_of(version).strftime("%Y-%m-%d")
    try:
        return render_template(spec.source.checkpoint, {"date": date, "version": str(version)})
    except KeyError as missing:
        why = f"source.checkpoint names {missing}, which an ensemble's release does not know; use date or version"
        raise BadModelConfig(spec.name, [why]) from None


def export(step: Step, folder: Path) -> dict[str, Any]:
    """
    Put the parts of an ensemble into the unsealed archive: each checkpoint as its ONNX file, each folder as it is.

    Raises what export does for a model, and BadModelConfig for a folder that is not there any more.
    """
    spec, version = step.spec, step.release.version
    fetched = {part: _fetched(step, part, own, folder / part) for part, own in spec.model_parts.items()}
    scripts = {part: _script_files(spec, part, script.folder) for part, script in spec.python_parts.items()}
    made = {
        part: source_of_script(spec.python_parts[part].folder, scripts[part])
        if part in scripts
        else PartSource(uri=fetched[part].uri, sha256=fetched[part].sha256, files={})
        for part in (spec.serving.ensemble.parts if spec.serving.ensemble else ())
    }
    source = PartSources(parts=made).source
    sealed = step.archive.sealed(version)
    if sealed is not None:
        if sealed.source.sha256 != source.sha256:
            raise VersionTaken(step.model, version, sealed.source.uri, source.uri)
        return {"already_sealed": True, "source": source.model_dump()}
    size_bytes = 0
    for part, own in spec.model_parts.items():
        files = build.export(own, fetched[part], folder / part / MODEL_FILE, version=version, progress=log.info)
        scripts[part] = {file.name: file for file in files}
    for part, files_of in scripts.items():
        entries = {
            name: step.archive.write(version, "base", folder_of_part(part) + name, path, step.check)
            for name, path in files_of.items()
        }
        made[part] = made[part].model_copy(update={"files": {name: entry.sha256 for name, entry in entries.items()}})
        size_bytes += sum(entry.size_bytes for entry in entries.values())
    (folder / PARTS_FILE).write_text(PartSources(parts=made).model_dump_json(indent=1))
    step.archive.write(version, "base", PARTS_FILE, folder / PARTS_FILE, step.check)
    step.event("exported", source=source.model_dump(), parts={part: one.model_dump() for part, one in made.items()})
    return {"already_sealed": False, "source": source.model_dump(), "onnx_bytes": size_bytes}


def _fetched(step: Step, part: str, spec: ModelSpec, folder: Path) -> FetchedCheckpoint:
    folder.mkdir()
    only = len(step.spec.model_parts) == 1
    uri = step.running.checkpoint if only else checkpoint_of(spec, step.release.version)
    log.info("part %s is built from %s", part, uri)
    return fetch_checkpoint(spec, uri, step.environment, folder)


def _script_files(spec: ModelSpec, part: str, folder: str) -> dict[str, Path]:
    try:
        return files_of_part(folder)
    except ValueError as error:
        raise BadModelConfig(spec.name, [f"part {part!r}: {error}"]) from None


def validate(step: Step, folder: Path) -> dict[str, Any]:
    """
    Prove each part that has weights by itself, and then the whole; record samples with the whole's answers.

    Raises what validate does for a model, BytesDiffer where a checkpoint is another than was exported, PartFails.
    """
    spec, version = step.spec, step.release.version
    path = step.archive.read(version, "base", PARTS_FILE, folder / PARTS_FILE)
    sources = PartSources.model_validate_json(path.read_bytes())
    parts = {part: _built(step, part, source, folder / part) for part, source in sources.parts.items()}
    samples = parity.load_samples(spec.parity.samples, spec, step.environment) if spec.parity.samples else None
    report = build_ensemble.validate_ensemble(
        spec, sources, parts, folder, version=version, samples=samples, progress=log.info
    )
    write_report(step, folder)
    report.raise_for_failure()
    step.archive.write(version, "base", RECORDED, folder / RECORDED, step.check)
    summary = {**report.summary(), "parts": {part: one.report.summary() for part, one in parts.items() if one.report}}
    step.event("validated", parity=summary)
    return {"already_sealed": False, "parity": summary}


def _built(step: Step, part: str, source: PartSource, folder: Path) -> BuiltPart:
    """Read a part back from the archive; one that has weights is proved by itself first."""
    served = folder / str(step.release.version)
    for name, digest in source.files.items():
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        file = folder_of_part(part) + name
        step.archive.read(step.release.version, "base", file, served / name)
        _compare(step.archive.folder(step.release.version, "base") + file, served / name, digest)
    spec = step.spec.model_parts.get(part)
    if spec is None:
        return BuiltPart(served)
    fetched = fetch_checkpoint(spec, source.uri, step.environment, folder)
    _compare(source.uri, fetched.path, source.sha256)
    report = build.validate(
        spec,
        fetched,
        served / MODEL_FILE,
        folder,
        version=step.release.version,
        against=against(step, spec, folder, part),
        progress=log.info,
    )
    write_report(step, folder, part)
    report.raise_for_failure()
    write_warmup(step, spec, folder, part)
    return BuiltPart(served, fetched, report)


def _compare(where: str, path: Path, sha256: str) -> None:
    got = manifests.describe(path).sha256
    if got != sha256:
        raise BytesDiffer(where, f"sha256 {got}", f"sha256 {sha256} (the one that was exported)")

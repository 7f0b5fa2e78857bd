"""publish: config.pbtxt and the manifest, whose write seals the version."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.build import PAGE, PARITY, RECORDED, WORST
from model_release.environment import Environment
from model_release.errors import BytesDiffer
from model_release.identity import Release
from model_release.parity.report import ParityReport
from model_release.repository import manifest as manifests
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import WARMUP
from model_release.steps.context import begin
from model_release.steps.serve import CONFIG
from model_release.triton import config as configs


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
        config = configs.build_config(spec, version, configs.Tuning.from_spec(spec))
        (folder / CONFIG).write_text(configs.render(config, epoch=0))
        step.archive.write(version, "base", CONFIG, folder / CONFIG, step.check)
        report = ParityReport.model_validate_json(
            step.archive.read(version, "base", PARITY, folder / PARITY).read_bytes()
        )
        names = [*report.onnx.files, CONFIG, PARITY, RECORDED, *(f"{WARMUP}{tensor.name}" for tensor in spec.inputs)]
        names += [file for file in (PAGE, WORST) if step.archive.holds(version, "base", file)]
        files = {
            file: manifests.describe(step.archive.read(version, "base", file, folder / "download")) for file in names
        }
        for file, proved in report.onnx.files.items():
            if files[file].sha256 != proved:
                key = step.archive.key(version, "base", file)
                raise BytesDiffer(key, files[file].sha256, f"{proved} (the one that was proved)")
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
            release_digest=configs.release_digest(config),
            run_id=release.run_id,
            sealed_at=step.store.now(),
            by=release.by,
        )
        step.signatures.sign(manifest, step.check)
        manifest = step.archive.seal(manifest, step.check)
        step.event("published", release_digest=manifest.release_digest, files=sorted(files))
        return {"already_sealed": False, "release_digest": manifest.release_digest}

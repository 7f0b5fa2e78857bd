"""publish: config.pbtxt and the manifest, whose write seals the version."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.environment import Environment
from model_release.errors import BytesDiffer
from model_release.identity import Release
from model_release.repository import manifest as manifests
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import MODEL_FILE, WARMUP
from model_release.steps.context import begin
from model_release.steps.serve import CONFIG, RECORDED
from model_release.steps.validate import PARITY
from model_release.triton import config as configs


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Seal the version: what validate proved, and the config that serves it.

    Raises VersionTaken, and BytesDiffer when the ONNX file is not the one that was proved.
    """
    with begin(release, environment, "publish") as step, TemporaryDirectory() as name:
        sealed = step.archive.sealed(release.version)
        if sealed is not None:
            return {"already_sealed": True, "release_digest": sealed.release_digest}
        folder, spec, version = Path(name), step.spec, release.version
        config = configs.build_config(spec, version, configs.Tuning.from_spec(spec))
        (folder / CONFIG).write_text(configs.render(config, epoch=0))
        step.archive.write(version, "base", CONFIG, folder / CONFIG, step.check)
        names = [MODEL_FILE, CONFIG, PARITY, RECORDED, *(f"{WARMUP}{tensor.name}" for tensor in spec.inputs)]
        files = {
            file: manifests.describe(step.archive.read(version, "base", file, folder / "download")) for file in names
        }
        evidence = json.loads(step.archive.read(version, "base", PARITY, folder / PARITY).read_text())
        if files[MODEL_FILE].sha256 != evidence["onnx_sha256"]:
            key = step.archive.key(version, "base", MODEL_FILE)
            raise BytesDiffer(key, files[MODEL_FILE].sha256, f"{evidence['onnx_sha256']} (the one that was proved)")
        manifest = Manifest(
            model=release.model,
            version=version,
            part="base",
            contract=spec.contract,
            source=SourceEntry(**evidence["source"]),
            files=files,
            tools=manifests.tool_versions(),
            summary={"parity": evidence["report"]},
            spec_digest=spec.digest,
            release_digest=configs.release_digest(config),
            run_id=release.run_id,
            sealed_at=step.store.now(),
            by=release.by,
        )
        manifest = step.archive.seal(manifest, step.check)
        step.event("published", release_digest=manifest.release_digest, files=sorted(files))
        return {"already_sealed": False, "release_digest": manifest.release_digest}

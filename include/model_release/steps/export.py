"""export: checkpoint to the file that validate proves, into the archive, where nobody reads it before the seal."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release import build
from model_release.environment import Environment
from model_release.errors import VersionTaken
from model_release.identity import Release
from model_release.intake import fetch_checkpoint
from model_release.steps import ensemble
from model_release.steps.context import begin

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Load the checkpoint, export it and put the ONNX file, or its two files, into the unsealed archive.

    Raises CheckpointMissing, CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed, ExportFailed, ProcessDied, and
    VersionTaken when the version is sealed from another checkpoint.
    """
    with begin(release, environment, "export") as step, TemporaryDirectory() as folder:
        if step.spec.serving.ensemble is not None:
            return ensemble.export(step, Path(folder))
        fetched = fetch_checkpoint(step.spec, step.running.checkpoint, environment, Path(folder))
        source = {"uri": fetched.uri, "sha256": fetched.sha256}
        sealed = step.archive.sealed(release.version)
        if sealed is not None:
            if sealed.source.sha256 != fetched.sha256:
                raise VersionTaken(release.model, release.version, sealed.source.sha256, fetched.sha256)
            return {"already_sealed": True, "source": source}
        path = Path(folder) / step.spec.serving.exported_file
        files = build.export(step.spec, fetched, path, version=release.version, progress=log.info)
        entries = {
            file.name: step.archive.write(release.version, "base", file.name, file, step.check) for file in files
        }
        onnx = {name: entry.sha256 for name, entry in entries.items()}
        onnx_bytes = sum(entry.size_bytes for entry in entries.values())
        step.event("exported", source=source, onnx=onnx, onnx_bytes=onnx_bytes)
        return {"already_sealed": False, "source": source, "onnx_bytes": onnx_bytes}

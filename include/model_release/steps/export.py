"""export: checkpoint to ONNX, into the archive, where nobody reads it before it is sealed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.environment import Environment
from model_release.errors import VersionTaken
from model_release.identity import Release
from model_release.repository.serving import MODEL_FILE
from model_release.steps.context import begin


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Load the checkpoint, export it and put the ONNX file into the unsealed archive.

    Raises CheckpointMissing, CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed, ExportFailed, and VersionTaken
    when the version is sealed from another checkpoint.
    """
    from model_release.export import export_onnx
    from model_release.intake import load_model

    with begin(release, environment, "export") as step, TemporaryDirectory() as folder:
        checkpoint = load_model(step.spec, step.running.checkpoint, environment, Path(folder))
        source = {"uri": checkpoint.uri, "sha256": checkpoint.sha256}
        sealed = step.archive.sealed(release.version)
        if sealed is not None:
            if sealed.source.sha256 != checkpoint.sha256:
                raise VersionTaken(release.model, release.version, sealed.source.sha256, checkpoint.sha256)
            return {"already_sealed": True, "source": source}
        path = Path(folder) / MODEL_FILE
        export_onnx(step.spec, checkpoint.module, path, version=release.version, source_sha256=checkpoint.sha256)
        entry = step.archive.write(release.version, "base", MODEL_FILE, path, step.check)
        step.event("exported", source=source, onnx_sha256=entry.sha256, onnx_bytes=entry.size_bytes)
        return {"already_sealed": False, "source": source, "onnx_bytes": entry.size_bytes}

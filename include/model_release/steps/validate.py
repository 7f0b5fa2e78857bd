"""validate: the ONNX file must answer as the PyTorch model does, and no worse than stable, or the release ends here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release import build
from model_release.build import RECORDED
from model_release.environment import Environment
from model_release.export.engine import require_tensorrt
from model_release.identity import Release
from model_release.intake import fetch_checkpoint
from model_release.parity.report import ParityReport
from model_release.repository.serving import ENGINE_FACTS, MODEL_DATA
from model_release.repository.store import KeyAbsent
from model_release.steps import ensemble
from model_release.steps.against import against
from model_release.steps.context import Step, begin
from model_release.steps.proofs import write_report, write_warmup

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Prove the exported file, and record samples with their reference answers.

    The report goes into the archive whether the proof held or not. Raises ParityFailed, AccuracyTooLow,
    EmbeddingMoved, SamplesUnusable, ProviderMissing, PartFails, and what loading the checkpoint raises; for the backend
    tensorrt TensorRTMissing, EngineFailed.
    """
    with begin(release, environment, "validate") as step, TemporaryDirectory() as name:
        if step.archive.sealed(release.version) is not None:
            return {"already_sealed": True}
        folder, spec = Path(name), step.spec
        if spec.serving.ensemble is not None:
            return ensemble.validate(step, folder)
        if spec.serving.is_engine:
            require_tensorrt(spec)
        fetched = fetch_checkpoint(spec, step.running.checkpoint, environment, folder)
        onnx = _downloaded(step, folder)
        report = build.validate(
            spec,
            fetched,
            onnx,
            folder,
            version=release.version,
            against=against(step, spec, folder),
            progress=log.info,
        )
        write_report(step, folder)
        report.raise_for_failure()
        step.archive.write(release.version, "base", RECORDED, folder / RECORDED, step.check)
        write_warmup(step, spec, folder)
        if spec.serving.is_engine:
            _write_engine(step, report, onnx, folder)
        step.event("validated", parity=report.summary())
        return {"already_sealed": False, "parity": report.summary()}


def _write_engine(step: Step, report: ParityReport, onnx: Path, folder: Path) -> None:
    """Build the engine of the file that was just proved; bench's served parity proves the engine."""
    plan = folder / step.spec.serving.model_file
    built = build.build_engine(step.spec, onnx, plan, progress=log.info)
    entry = step.archive.write(step.release.version, "base", plan.name, plan, step.check)
    facts = {"sha256": entry.sha256, "onnx": report.onnx.files, **built}
    (folder / ENGINE_FACTS).write_text(json.dumps(facts, indent=1))
    step.archive.write(step.release.version, "base", ENGINE_FACTS, folder / ENGINE_FACTS, step.check)
    step.event("engine_built", **facts)


def _downloaded(step: Step, folder: Path) -> Path:
    """Read back what export wrote; which files belong to the graph, the graph itself says."""
    served = step.spec.serving.exported_file
    path = step.archive.read(step.release.version, "base", served, folder / served)
    try:
        step.archive.read(step.release.version, "base", MODEL_DATA, folder / MODEL_DATA)
    except KeyAbsent:
        log.info("the weights are in %s itself", served)
    return path

"""validate: the ONNX file must answer as the PyTorch model does, and no worse than stable, or the release ends here."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model_release import build, parity
from model_release.build import PAGE, PARITY, RECORDED, WORST, ProofInputs
from model_release.environment import Environment
from model_release.identity import Release
from model_release.intake import fetch_checkpoint
from model_release.repository.serving import MODEL_DATA, WARMUP
from model_release.repository.store import KeyAbsent
from model_release.steps.context import Step, begin, read_frozen_spec

log = logging.getLogger(__name__)


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Prove the exported file, and record samples with their reference answers.

    The report goes into the archive whether the proof held or not. Raises ParityFailed, AccuracyTooLow,
    EmbeddingMoved, SamplesUnusable, ProviderMissing, and what loading the checkpoint raises.
    """
    with begin(release, environment, "validate") as step, TemporaryDirectory() as name:
        if step.archive.sealed(release.version) is not None:
            return {"already_sealed": True}
        folder, spec = Path(name), step.spec
        against = _against(step, folder)
        fetched = fetch_checkpoint(spec, step.running.checkpoint, environment, folder)
        onnx = _downloaded(step, folder)
        report = build.validate(
            spec, fetched, onnx, folder, version=release.version, against=against, progress=log.info
        )
        for file in (PARITY, PAGE, WORST):
            if (folder / file).exists():
                step.archive.write(release.version, "base", file, folder / file, step.check)
        report.raise_for_failure()
        _write_recorded(step, folder)
        step.event("validated", parity=report.summary())
        return {"already_sealed": False, "parity": report.summary()}


def _against(step: Step, folder: Path) -> ProofInputs:
    """Fetch samples, golden set and stable's ONNX file, as far as the spec asks for them."""
    spec, environment = step.spec, step.environment
    samples = parity.load_samples(spec.parity.samples, spec, environment) if spec.parity.samples else None
    golden = None
    if spec.accuracy is not None:
        golden = parity.load_samples(spec.accuracy.golden_set, spec, environment, with_label=True)
    wants_stable = spec.accuracy is not None or spec.embedding is not None
    return ProofInputs(samples, golden, _stable(step, folder) if wants_stable else None)


def _stable(step: Step, folder: Path) -> parity.StableVersion | None:
    """Download the file of the version that has the traffic, verified; None where nothing serves yet."""
    stable = step.claim.check().stable
    if stable is None:
        return None
    manifest = step.archive.require(stable.version)
    own = folder / "stable"
    own.mkdir()
    spec = read_frozen_spec(step.store, step.release.model, manifest.spec_digest)
    served = spec.serving.model_file
    for name in (served, MODEL_DATA):
        if name in manifest.files:
            step.archive.read_sealed(manifest, name, own / name)
    return parity.StableVersion(stable.version, spec, own / served)


def _downloaded(step: Step, folder: Path) -> Path:
    """Read back what export wrote; which files belong to the graph, the graph itself says."""
    served = step.spec.serving.model_file
    path = step.archive.read(step.release.version, "base", served, folder / served)
    try:
        step.archive.read(step.release.version, "base", MODEL_DATA, folder / MODEL_DATA)
    except KeyAbsent:
        log.info("the weights are in %s itself", served)
    return path


def _write_recorded(step: Step, folder: Path) -> None:
    """Put the recorded samples and Triton's warm-up inputs beside the ONNX file."""
    version, check = step.release.version, step.check
    step.archive.write(version, "base", RECORDED, folder / RECORDED, check)
    with np.load(folder / RECORDED, allow_pickle=False) as recorded:
        for tensor in step.spec.inputs:
            raw = folder / f"warmup-{tensor.name}"
            raw.write_bytes(np.ascontiguousarray(recorded[f"input__{tensor.name}"][0]).tobytes())
            step.archive.write(version, "base", f"{WARMUP}{tensor.name}", raw, check)

"""validate: the ONNX file must answer as the PyTorch model does, or the release ends here."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model_release.environment import Environment
from model_release.identity import Release
from model_release.repository import manifest as manifests
from model_release.repository.serving import MODEL_FILE, WARMUP
from model_release.steps.context import Step, begin
from model_release.steps.serve import RECORDED

PARITY = "parity.json"


def run(release: Release, environment: Environment) -> dict[str, Any]:
    """
    Prove parity of the exported file, and record samples with their reference answers.

    Raises ParityFailed, SamplesUnusable, and what loading the checkpoint raises.
    """
    from model_release import parity
    from model_release.intake import load_model
    from model_release.parity.report import Source

    with begin(release, environment, "validate") as step, TemporaryDirectory() as name:
        if step.archive.sealed(release.version) is not None:
            return {"already_sealed": True}
        folder, spec = Path(name), step.spec
        checkpoint = load_model(spec, step.running.checkpoint, environment, folder)
        onnx = step.archive.read(release.version, "base", MODEL_FILE, folder / MODEL_FILE)
        uri = spec.parity.samples
        samples = parity.load_samples(uri, spec, environment) if uri else None
        source = Source(uri=checkpoint.uri, sha256=checkpoint.sha256)
        proof = parity.prove(spec, checkpoint.module, onnx, source=source, version=release.version, samples=samples)
        proof.raise_for_failure()
        report = proof.model_dump(mode="json")
        recorded = parity.record(spec, checkpoint.module, samples)
        evidence = {
            "source": {"uri": checkpoint.uri, "sha256": checkpoint.sha256},
            "onnx_sha256": manifests.describe(onnx).sha256,
            "report": report,
        }
        _write(step, folder, evidence, recorded)
        step.event("validated", parity=report)
        return {"already_sealed": False, "parity": report}


def _write(step: Step, folder: Path, evidence: dict[str, Any], recorded: dict[str, np.ndarray[Any, Any]]) -> None:
    """Put the evidence, the recorded samples and Triton's warm-up inputs beside the ONNX file."""
    version, check = step.release.version, step.check
    path = folder / PARITY
    path.write_text(json.dumps(evidence, indent=1))
    step.archive.write(version, "base", PARITY, path, check)
    with (folder / RECORDED).open("wb") as stream:
        np.savez(stream, **recorded)  # type: ignore[arg-type]
    step.archive.write(version, "base", RECORDED, folder / RECORDED, check)
    for tensor in step.spec.inputs:
        one = recorded[f"input__{tensor.name}"][0]
        raw = folder / f"warmup-{tensor.name}"
        raw.write_bytes(np.ascontiguousarray(one).tobytes())
        step.archive.write(version, "base", f"{WARMUP}{tensor.name}", raw, check)

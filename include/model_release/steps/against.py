"""What validate holds a model against, besides generated inputs: the user's samples, a golden set, stable's version."""

from __future__ import annotations

from pathlib import Path

from model_release import parity
from model_release.build import ProofInputs
from model_release.repository.serving import MODEL_DATA, folder_of_part
from model_release.spec import ModelSpec
from model_release.steps.context import Step, read_frozen_spec


def against(step: Step, spec: ModelSpec, folder: Path, part: str = "") -> ProofInputs:
    """
    Fetch samples, golden set and stable's file into `folder`, as far as the spec asks for them.

    Of an ensemble's part `spec` is the part's, and stable's file that of the same part. Raises SamplesUnusable.
    """
    environment = step.environment
    samples = parity.load_samples(spec.parity.samples, spec, environment) if spec.parity.samples else None
    golden = None
    if spec.accuracy is not None:
        golden = parity.load_samples(spec.accuracy.golden_set, spec, environment, with_label=True)
    wants_stable = spec.accuracy is not None or spec.embedding is not None
    return ProofInputs(samples, golden, _stable(step, folder, part) if wants_stable else None)


def _stable(step: Step, folder: Path, part: str) -> parity.StableVersion | None:
    """Download the file of the version that has the traffic, verified; None where nothing serves yet."""
    stable = step.claim.check().stable
    if stable is None:
        return None
    manifest = step.archive.require(stable.version)
    spec = read_frozen_spec(step.store, step.release.model, manifest.spec_digest)
    own = spec.model_parts.get(part) if part else spec
    if own is None:
        return None  # stable's version has no such part
    place = folder / "stable"
    place.mkdir()
    served = own.serving.exported_file
    for name in (served, MODEL_DATA):
        if folder_of_part(part) + name in manifest.files:
            step.archive.read_sealed(manifest, folder_of_part(part) + name, place / name)
    return parity.StableVersion(stable.version, own, place / served)

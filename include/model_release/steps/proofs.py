"""What validate leaves in the archive of a model, or of an ensemble's part: the report, and Triton's warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model_release.build import PAGE, PARITY, RECORDED, WORST
from model_release.repository.serving import WARMUP, folder_of_part
from model_release.spec import ModelSpec
from model_release.steps.context import Step


def write_report(step: Step, folder: Path, part: str = "") -> None:
    """Put the report of a proof into the archive, whether it held or not."""
    for file in (PARITY, PAGE, WORST):
        if (folder / file).exists():
            step.archive.write(step.release.version, "base", folder_of_part(part) + file, folder / file, step.check)


def write_warmup(step: Step, spec: ModelSpec, folder: Path, part: str = "") -> None:
    """Put Triton's warm-up inputs beside the model's file: the first of the recorded samples that lie in `folder`."""
    with np.load(folder / RECORDED, allow_pickle=False) as recorded:
        for tensor in spec.inputs:
            raw = folder / f"warmup-{tensor.name}"
            raw.write_bytes(np.ascontiguousarray(recorded[f"input__{tensor.name}"][0]).tobytes())
            name = f"{folder_of_part(part)}{WARMUP}{tensor.name}"
            step.archive.write(step.release.version, "base", name, raw, step.check)

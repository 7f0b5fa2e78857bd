"""Which execution providers the ONNX file is proved on."""

from __future__ import annotations

import ctypes
from pathlib import Path

from model_release.errors import ProviderMissing
from model_release.parity.candidate import CPU, CUDA, Candidate
from model_release.spec import ModelSpec


def open_candidates(spec: ModelSpec, path: Path) -> tuple[list[Candidate], list[str]]:
    """
    Open the ONNX file with every provider that has to agree; also returns what was left out, and why.

    `parity.providers` are taken as they are. Without them: CPU, and CUDA where the model may be served on a GPU and
    this machine has one that ONNX Runtime can use.
    Raises ProviderMissing for a provider that the spec names, OnnxUnusable.
    """
    if spec.parity.providers:
        return [Candidate(spec, path, name) for name in dict.fromkeys(spec.parity.providers)], []
    candidates = [Candidate(spec, path, CPU)]
    kind = spec.serving.instance_group.kind
    if kind == "cpu":
        return candidates, []
    if not cuda_devices():
        # With `auto` nobody asked for a GPU, so that nothing is missing.
        why = "cuda was not compared: the model is served on a GPU, and this machine has none"
        return candidates, [why] if kind == "gpu" else []
    try:
        return [*candidates, Candidate(spec, path, CUDA)], []
    except ProviderMissing as missing:
        return candidates, [f"cuda was not compared, though this machine has a GPU: {missing}"]


def cuda_devices() -> int:
    """Return how many devices NVIDIA's driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value

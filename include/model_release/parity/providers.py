"""The file that will be served, opened as its backend does: which execution providers it is proved on."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from model_release.errors import ProviderMissing
from model_release.parity.candidate import CPU, CUDA, Candidate
from model_release.parity.onnxfile import describe as describe_onnx
from model_release.parity.report import OnnxFile
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from model_release.parity.torchscript import TorchScriptCandidate

    Opened = Candidate | TorchScriptCandidate


def describe(spec: ModelSpec, path: Path) -> tuple[OnnxFile, list[str]]:
    """
    Return digests and size of the file, and its nodes that draw random numbers, for people.

    Raises OnnxUnusable when it is no ONNX file.
    """
    if spec.serving.backend == "pytorch":
        from model_release.parity.torchscript import describe as describe_torchscript

        return describe_torchscript(path), []
    return describe_onnx(spec, path)


def open_candidate(spec: ModelSpec, path: Path, provider: str = CPU) -> Opened:
    """Open the file with one provider. Raises ProviderMissing, OnnxUnusable."""
    if spec.serving.backend == "pytorch":
        from model_release.parity.torchscript import TorchScriptCandidate

        return TorchScriptCandidate(spec, path, provider)
    return Candidate(spec, path, provider)


def open_candidates(spec: ModelSpec, path: Path) -> tuple[list[Opened], list[str]]:
    """
    Open the file with every provider that has to agree; also returns what was left out, and why.

    `parity.providers` are taken as they are. Without them: CPU, and CUDA where the model may be served on a GPU and
    this machine has one that can be used.
    Raises ProviderMissing for a provider that the spec names, OnnxUnusable.
    """
    if spec.parity.providers:
        return [open_candidate(spec, path, name) for name in dict.fromkeys(spec.parity.providers)], []
    candidates = [open_candidate(spec, path)]
    kind = spec.serving.instance_group.kind
    if kind == "cpu":
        return candidates, []
    if not cuda_devices():
        # With `auto` nobody asked for a GPU, so that nothing is missing.
        why = "cuda was not compared: the model is served on a GPU, and this machine has none"
        return candidates, [why] if kind == "gpu" else []
    try:
        return [*candidates, open_candidate(spec, path, CUDA)], []
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

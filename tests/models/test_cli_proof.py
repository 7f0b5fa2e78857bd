"""Export and validate from the command line, as on a laptop: no Airflow, no S3, no Triton."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from example_models.digits import build
from tests.unit.command import run


def test_export_and_validate_need_no_server(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "model.safetensors"
    save_file(build().state_dict(), checkpoint)

    exported = run("export", "digits_classifier", "--checkpoint", str(checkpoint), "--out", str(tmp_path))
    assert exported.returncode == 0, exported.stderr
    assert "translating to ONNX" in exported.stderr

    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    np.savez(tmp_path / "samples.npz", image=images)
    onnx, out = tmp_path / "model.onnx", tmp_path / "parity.json"
    proving = ["validate", "digits_classifier", "--onnx", str(onnx), "--out", str(out), "--golden", "none"]
    own = ["--samples", str(tmp_path / "samples.npz")]
    validated = run(*proving, "--checkpoint", str(checkpoint), *own)
    assert validated.returncode == 0, validated.stderr
    report = json.loads(out.read_text())
    assert (report["passed"], report["real_samples"]) == (True, 4)

    other = tmp_path / "other.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in build().state_dict().items()}, other)
    refused = run("--json", *proving, "--checkpoint", str(other), *own)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"] == "ParityFailed"
    assert json.loads(out.read_text())["passed"] is False
    assert (tmp_path / "worst.npz").exists()

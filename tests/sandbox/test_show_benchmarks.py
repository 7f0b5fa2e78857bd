"""The shows of the benchmark: that each measures, in its smallest form, and writes its section of the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from sandbox.settings import ROOT
from sandbox.show_benchmarks.models import MODELS


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits' ONNX file, so that no show exports it again."""
    folder = tmp_path_factory.mktemp("onnx")
    assert onnx.load(str(MODELS["digits_cnn"].export(folder))).graph.input[0].name == "image"
    return folder


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("batching", "batching on / FastAPI"),
        ("router", "through"),
    ],
)
def test_a_show_measures_and_writes_its_section(what: str, said: str, exported: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "sandbox.show_benchmarks", what, "--models", "digits_cnn", "--small"]
    done = subprocess.run(
        [*command, "--page", str(page), "--onnx", str(exported)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    assert said in page.read_text() or what == "router"
    assert page.read_text().count("\n## ") == 1

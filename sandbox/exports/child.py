"""
One case in a process of its own: `python -m sandbox.exports.child KIND NAME FOLDER`; the result is FOLDER/result.json.

The process is the measure of memory: its peak, and that of the isolated process that it starts for a program. The
checkpoint is written by a process before it, since training or building a model is no part of a release.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_release.errors import ReleaseError
from model_release.spec import ModelSpec
from sandbox.exports.catalogue import ARCHITECTURES
from sandbox.exports.checkpoints import no_servers, path_of, spec_of, write
from sandbox.exports.refusals import REFUSALS

RESULT = "result.json"
_MB = 1e6
_VERSION = 20260102030000


def peak_mb() -> float:
    """Return the most memory that this process, or one that it waited for, has held."""
    # Linux counts into a process's own ru_maxrss what its parent held when it started it; VmHWM begins anew.
    own_kb = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    waited_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own_kb[1]) if own_kb else 0, waited_kb) * 1024 / _MB


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


def warm_up() -> None:
    """Import what both sides of a comparison need, so that neither is charged for it."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export and validate one architecture; what was found, whether the proof held or not."""
    from model_release import build
    from model_release.intake import fetch_checkpoint

    spec, checkpoint = _written(name, folder)
    warm_up()
    (folder / "fetched").mkdir()
    (folder / "made").mkdir()
    libraries_mb = peak_mb()
    fetched, fetch_s = _timed(lambda: fetch_checkpoint(spec, checkpoint.as_uri(), no_servers(), folder / "fetched"))
    onnx = folder / "made" / "model.onnx"
    files, export_s = _timed(lambda: build.export(spec, fetched, onnx, version=_VERSION))
    report, validate_s = _timed(lambda: build.validate(spec, fetched, onnx, folder / "made", version=_VERSION))
    worst = max(report.outputs, key=lambda found: (found.differing, found.max_abs), default=None)
    return {
        "passed": report.passed,
        "failures": [f"{failure.error}: {failure.message}" for failure in report.failures],
        "weights_mb": fetched.size_bytes / _MB,
        "onnx_mb": sum(file.stat().st_size for file in files) / _MB,
        "export_s": fetch_s + export_s,
        "validate_s": validate_s,
        "work_s": fetch_s + export_s + validate_s,
        "libraries_mb": libraries_mb,
        "peak_mb": peak_mb(),
        "max_abs": worst.max_abs if worst else None,
        "allowed": str(spec.tolerance(worst.output)) if worst else None,
        "independent": not any(row.differing for row in report.batch_independence),
        "cases": len(report.cases),
    }


def write_checkpoint(name: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint that `measure` and `plain` find."""
    write(ARCHITECTURES[name], folder)
    return {"passed": True, "failures": []}


def _written(name: str, folder: Path) -> tuple[ModelSpec, Path]:
    """Return the spec of the checkpoint in the folder, and its path."""
    path = path_of(ARCHITECTURES[name], folder)
    return spec_of(ARCHITECTURES[name], path), path


def refuse(name: str, folder: Path) -> dict[str, Any]:
    """Run one case that must be refused; returns the error that came, or none."""
    case = REFUSALS[name]
    try:
        case.run(folder)
    except ReleaseError as error:
        return {"error": type(error).__name__, "sentence": str(error), "right": isinstance(error, case.error)}
    return {"error": None, "sentence": "it was not refused", "right": False}


def plain(name: str, folder: Path) -> dict[str, Any]:
    """Do what a hand-written script does: export, one session, one allclose."""
    spec, checkpoint = _written(name, folder)
    warm_up()
    libraries_mb = peak_mb()
    (equal, max_abs), work_s = _timed(lambda: _by_hand(spec, checkpoint, folder / "model.onnx"))
    return {
        "passed": equal,
        "failures": [] if equal else [f"its ONNX differs from PyTorch by {max_abs:.2g}"],
        "work_s": work_s,
        "libraries_mb": libraries_mb,
        "peak_mb": peak_mb(),
    }


def _by_hand(spec: ModelSpec, checkpoint: Path, onnx: Path) -> tuple[bool, float]:
    """Return whether one batch of random inputs is answered alike, and the largest difference."""
    import numpy as np
    import onnxruntime
    import torch
    from safetensors.torch import load_file

    from model_release.intake import factory
    from model_release.parity.samples import generate, middle_axes

    module = factory.build(spec.source).eval()
    module.load_state_dict(load_file(checkpoint))
    arrays = generate(spec, 2, 0, middle_axes(spec))
    inputs = {named.name: torch.from_numpy(arrays[named.name]) for named in spec.inputs}
    dynamic = {
        named.name: {0: "batch", **{i: axis for i, axis in enumerate(named.shape, 1) if isinstance(axis, str)}}
        for named in spec.inputs
    }
    with torch.no_grad():
        torch.onnx.export(module, (), onnx, kwargs=inputs, dynamic_shapes=dynamic, dynamo=True, verbose=False)
        answer = module(**inputs)
    expected = (answer[spec.outputs[0].name] if hasattr(answer, "keys") else answer).numpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    got = session.run(None, {each.name: arrays[each.name] for each in session.get_inputs()})[0]
    return bool(np.allclose(got, expected, atol=1e-4, rtol=1e-3)), float(np.abs(got - expected).max())


_KINDS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "write": write_checkpoint,
    "measure": measure,
    "refuse": refuse,
    "plain": plain,
}


def main(kind: str, name: str, folder: Path) -> None:
    """Run the case and write what was found."""
    try:
        found = _KINDS[kind](name, folder)
    except ReleaseError as error:
        found = {"passed": False, "failures": [f"{type(error).__name__}: {error}"], "peak_mb": peak_mb()}
    (folder / RESULT).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

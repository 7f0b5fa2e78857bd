"""Models that load, and must not be released: they do not export, or their ONNX does not answer as they do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_release.errors import (
    AccuracyTooLow,
    BatchDependent,
    EmbeddingMoved,
    ExportFailed,
    NotDeterministic,
    NotFinite,
    ProviderMissing,
    ReleaseError,
)
from sandbox.exports.checkpoints import no_servers
from sandbox.exports.refused_files import VALUES, spec_of

_VERSION = 20260102030000


def _release(factory: str, folder: Path, changes: dict[str, Any] | None = None, against: Any = None) -> Path:
    """Export and validate a module with one mistake; returns the ONNX file. Raises what stops the release."""
    import torch
    from safetensors.torch import save_file

    from model_release import build
    from model_release.intake import fetch_checkpoint
    from sandbox.exports import broken_modules

    torch.manual_seed(7)
    checkpoint, made = folder / "model.safetensors", folder / "made"
    save_file(dict(getattr(broken_modules, factory)().state_dict()), checkpoint)
    spec = spec_of(checkpoint, factory=factory, **(changes or {}))
    for where in (made, folder / "fetched"):
        where.mkdir(exist_ok=True)
    fetched = fetch_checkpoint(spec, checkpoint.as_uri(), no_servers(), folder / "fetched")
    onnx = made / "model.onnx"
    build.export(spec, fetched, onnx, version=_VERSION)
    report = build.validate(spec, fetched, onnx, made, version=_VERSION, against=against)
    report.raise_for_failure()
    return onnx


def _against_stable(folder: Path, changes: dict[str, Any], golden: dict[str, Any] | None) -> None:
    """Release a sound module, and after it another whose answers are turned about, held against the first."""
    from model_release import parity
    from model_release.build import ProofInputs

    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    onnx = _release("plain", first)
    stable = parity.StableVersion(1, spec_of(first / "model.safetensors", **changes), onnx)
    samples = {"x": np.random.default_rng(7).uniform(-3, 3, (64, 3)).astype(np.float32)}
    labelled = None if golden is None else {**golden, "label": _labels(onnx, golden["x"])}
    _release("Turned", second, changes, ProofInputs(samples=samples, golden=labelled, stable=stable))


def _labels(onnx: Path, x: Any) -> Any:
    """Return what the first version answers, as the truth."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0].argmax(1).astype(np.int64)


def _worse(folder: Path) -> None:
    golden = {"x": np.random.default_rng(8).uniform(-3, 3, (200, 3)).astype(np.float32)}
    _against_stable(folder, {"accuracy": {"golden_set": "file:///golden.npz", "margin": 0.02}}, golden)


def _moved(folder: Path) -> None:
    _against_stable(folder, {"embedding": {"output": "y", "same_space": "required"}}, None)


def _spoilt(factory: str, **changes: Any) -> Callable[[Path], None]:
    return functools.partial(_do, factory, changes)


def _do(factory: str, changes: dict[str, Any], folder: Path) -> None:
    _release(factory, folder, changes)


def _output(**changes: Any) -> dict[str, Any]:
    return {"outputs": [{**VALUES["outputs"][0], **changes}]}


Case = tuple[str, str, type[ReleaseError] | tuple[type[ReleaseError], ...], Callable[[Path], None]]
_HALF = {"precision": "fp16"}
CASES: list[Case] = [
    ("if_on_data", "`if` on the values of a tensor", ExportFailed, _spoilt("Branches")),
    ("item", "`.item()` in forward", ExportFailed, _spoilt("ReadsValue")),
    ("no_operator", "an operator that ONNX lacks", ExportFailed, _spoilt("Eigenvalues")),
    ("own_operator", "an operator of the user's own", ExportFailed, _spoilt("OwnOperator")),
    ("own_function", "an autograd function that calls numpy", ExportFailed, _spoilt("OwnFunction")),
    ("fixed_batch", "a reshape to a fixed batch", ExportFailed, _spoilt("FixedBatch")),
    (
        "recurrent_axis",
        "an LSTM over an axis of any length",
        ExportFailed,
        _spoilt(
            "AnyLength",
            inputs=[{"name": "x", "dtype": "float32", "shape": ["time", 3], "range": [-3, 3]}],
            dynamic_axes={"time": {"min": 2, "max": 16}},
        ),
    ),
    ("wrong_shape", "an output of another shape than the spec's", ExportFailed, _spoilt("plain", **_output(shape=[4]))),
    (
        "wrong_dtype",
        "an output of another dtype than the spec's",
        ExportFailed,
        _spoilt("plain", **_output(dtype="float64")),
    ),
    ("state", "a buffer that each call changes", ExportFailed, _spoilt("Counts")),
    ("training_mode", "a forward that switches to training mode", ExportFailed, _spoilt("TurnsTraining")),
    ("batch_mean", "x - x.mean(0)", BatchDependent, _spoilt("Centred")),
    ("training_norm", "BatchNorm in training mode", BatchDependent, _spoilt("TrainingNorm")),
    ("place", "a cumulative sum over the samples", BatchDependent, _spoilt("Places")),
    ("loses_batch", "a mean over the batch axis", ExportFailed, _spoilt("LosesBatch")),
    ("dropout", "dropout forced on", NotDeterministic, _spoilt("ForcedDropout")),
    ("sampling", "a draw in forward", NotDeterministic, _spoilt("Samples")),
    ("overflow", "beyond 65504 in float16", NotFinite, _spoilt("Overflows", export=_HALF)),
    ("large_weight", "a weight that float16 cannot hold", ExportFailed, _spoilt("LargeWeight", export=_HALF)),
    ("no_provider", "a provider that is not here", ProviderMissing, _spoilt("plain", parity={"providers": ["cuda"]})),
    ("embedding_moved", "vectors of another space than stable's", EmbeddingMoved, _moved),
    ("less_accurate", "fewer right answers than stable", AccuracyTooLow, _worse),
]

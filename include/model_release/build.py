"""
A fetched checkpoint becomes an ONNX file, and the file is proved: what the steps and the command line share.

A checkpoint that is data is worked on in this process. One that is code, or is compared with such a version, is opened
in a child process alone, without credentials, and without a network where the platform can; only files and JSON come
back from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release import parity
from model_release.intake import FetchedCheckpoint, open_checkpoint
from model_release.isolation import call_isolated
from model_release.parity.report import ParityReport, Source
from model_release.spec import ModelSpec

#: What `validate` leaves in its folder; `parity.html` and `worst.npz` are for people, `recorded.npz` for the replicas.
PARITY, PAGE, WORST, RECORDED = "parity.json", "parity.html", "worst.npz", "recorded.npz"

Arrays = dict[str, npt.NDArray[Any]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ProofInputs:
    """
    What a version is held against, besides generated inputs.

    `samples` are the inputs by name, batch axis first; `golden` also has `label` [n]; `stable` is the version that has
    the traffic.
    """

    samples: Arrays | None = None
    golden: Arrays | None = None
    stable: parity.StableVersion | None = None


def quiet(_: str) -> None:
    """Take progress and say nothing."""


def export(
    spec: ModelSpec, fetched: FetchedCheckpoint, path: Path, *, version: int, progress: Progress = quiet
) -> list[Path]:
    """
    Export a checkpoint to the ONNX file `path`; weights over 1.8 GB come as a second file beside it.

    What the pytorch backend serves is the checkpoint itself, whose bytes are pinned.
    Returns the files. Raises CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed, ExportFailed, ProcessDied.
    """
    if spec.serving.backend == "pytorch":
        progress("the checkpoint is served as it is")
        shutil.copyfile(fetched.path, path)
        return [path]
    if not spec.source.is_code:
        return _export(spec, fetched, path, version, progress)
    arguments = {**_told(spec, fetched), "path": str(path), "version": version}
    names = call_isolated(
        f"{__name__}:export_in_child", arguments, what=f"export {spec.name}", writable=path.parent, progress=progress
    )
    return [path.parent / Path(name).name for name in names]


def validate(
    spec: ModelSpec,
    fetched: FetchedCheckpoint,
    onnx_path: Path,
    folder: Path,
    *,
    version: int | None = None,
    against: ProofInputs | None = None,
    progress: Progress = quiet,
) -> ParityReport:
    """
    Prove an ONNX file, and write parity.json, parity.html, worst.npz and recorded.npz into `folder`.

    The report is written and returned whether the proof held or not: `report.raise_for_failure()` says which.
    Raises what keeps a proof from being made at all: CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed,
    OnnxUnusable, ModelRefusesInputs, ProviderMissing, ProcessDied.
    """
    from model_release.report.parity_page import write_parity_page

    against = against or ProofInputs()
    if spec.source.is_code or (against.stable is not None and against.stable.spec.serving.backend == "pytorch"):
        report = _validate_in_child(spec, fetched, onnx_path, folder, version, against, progress)
    else:
        report = _validate(spec, fetched, onnx_path, folder, version, against, progress)
    progress("writing the report")
    (folder / PARITY).write_text(report.model_dump_json(indent=1))
    write_parity_page(report, folder / PAGE)
    return report


def build_engine(spec: ModelSpec, onnx_path: Path, plan_path: Path, progress: Progress = quiet) -> dict[str, Any]:
    """
    Build a TensorRT engine of a proved ONNX file; returns what `export.engine.build_engine` does.

    Raises EngineFailed, ProcessDied.
    """
    arguments = {"spec": spec.model_dump(mode="json"), "onnx_path": str(onnx_path), "plan_path": str(plan_path)}
    found: dict[str, Any] = call_isolated(
        "model_release.export.engine:build_in_child",
        arguments,
        what=f"build the engine of {spec.name}",
        writable=plan_path.parent,
        progress=progress,
    )
    return found


def _export(spec: ModelSpec, fetched: FetchedCheckpoint, path: Path, version: int, progress: Progress) -> list[Path]:
    from model_release.export import export_onnx

    progress(f"loading {fetched.uri}")
    module = open_checkpoint(spec, fetched)
    return export_onnx(spec, module, path, version=version, source_sha256=fetched.sha256, progress=progress)


def _validate(
    spec: ModelSpec,
    fetched: FetchedCheckpoint,
    onnx_path: Path,
    folder: Path,
    version: int | None,
    against: ProofInputs,
    progress: Progress,
) -> ParityReport:
    progress(f"loading {fetched.uri}")
    module = open_checkpoint(spec, fetched)
    report = parity.prove(
        spec,
        module,
        onnx_path,
        source=Source(uri=fetched.uri, sha256=fetched.sha256),
        version=version,
        samples=against.samples,
        golden=against.golden,
        stable=against.stable,
        worst_path=folder / WORST,
        progress=progress,
    )
    if report.passed:
        progress("recording samples with PyTorch's answers")
        save_arrays(folder / RECORDED, parity.record(spec, module, against.samples))
    return report


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays by name as .npz."""
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


# --- in the child process ----------------------------------------------------------------------


def _told(spec: ModelSpec, fetched: FetchedCheckpoint) -> dict[str, Any]:
    """Return spec and checkpoint as JSON values."""
    return {"spec": spec.model_dump(mode="json"), "fetched": {**asdict(fetched), "path": str(fetched.path)}}


def _heard(spec: dict[str, Any], fetched: dict[str, Any]) -> tuple[ModelSpec, FetchedCheckpoint]:
    """Read what `_told` said."""
    return ModelSpec.model_validate(spec), FetchedCheckpoint(**{**fetched, "path": Path(fetched["path"])})


def export_in_child(
    spec: dict[str, Any], fetched: dict[str, Any], path: str, version: int, progress: Progress
) -> list[str]:
    """Export in the child process; returns the names of the files."""
    return [file.name for file in _export(*_heard(spec, fetched), Path(path), version, progress)]


def _validate_in_child(
    spec: ModelSpec,
    fetched: FetchedCheckpoint,
    onnx_path: Path,
    folder: Path,
    version: int | None,
    against: ProofInputs,
    progress: Progress,
) -> ParityReport:
    """Hand the arrays over as files, since the child has no credentials to fetch them."""
    given: dict[str, Any] = {}
    for name in ("samples", "golden"):
        arrays = getattr(against, name)
        given[name] = None if arrays is None else str(folder / f"given-{name}.npz")
        if arrays is not None:
            save_arrays(Path(given[name]), arrays)
    stable = against.stable
    if stable is not None:
        given["stable"] = {
            "version": stable.version,
            "spec": stable.spec.model_dump(mode="json"),
            "onnx_path": str(stable.onnx_path),
        }
    arguments = {**_told(spec, fetched), "onnx_path": str(onnx_path), "folder": str(folder), "version": version}
    try:
        found = call_isolated(
            f"{__name__}:validate_in_child",
            {**arguments, "against": given},
            what=f"validate {spec.name}",
            writable=folder,
            progress=progress,
        )
    finally:
        for name in ("samples", "golden"):
            (folder / f"given-{name}.npz").unlink(missing_ok=True)
    return ParityReport.model_validate(found)


def validate_in_child(
    spec: dict[str, Any],
    fetched: dict[str, Any],
    onnx_path: str,
    folder: str,
    version: int | None,
    against: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Validate in the child process; returns the report as JSON values."""
    arrays = {name: _loaded(against.get(name)) for name in ("samples", "golden")}
    stable = against.get("stable")
    inputs = ProofInputs(
        **arrays,
        stable=stable
        and parity.StableVersion(
            stable["version"], ModelSpec.model_validate(stable["spec"]), Path(stable["onnx_path"])
        ),
    )
    report = _validate(*_heard(spec, fetched), Path(onnx_path), Path(folder), version, inputs, progress)
    return report.model_dump(mode="json")


def _loaded(path: str | None) -> Arrays | None:
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}

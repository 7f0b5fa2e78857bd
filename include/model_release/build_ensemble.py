"""An ensemble's parts on disk become one model, whose answers are proved: all artefacts against all references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_release import parity
from model_release.build import PAGE, PARITY, RECORDED, WORST, Arrays, Progress, quiet, save_arrays
from model_release.intake import FetchedCheckpoint, open_checkpoint
from model_release.parity.report import OnnxFile, ParityReport, Source
from model_release.spec import ModelSpec, Section
from model_release.triton.bundle import build_bundle

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


class PartSource(Section):
    """What a part was made of: a checkpoint, or a folder of the repository, and its files with their sha256."""

    uri: str
    sha256: str
    files: dict[str, str]


class PartSources(Section):
    """parts.json: what each part of a version was made of, in the order of the spec."""

    parts: dict[str, PartSource]

    @property
    def source(self) -> Source:
        """The whole as a manifest names it: the digest is of a line `<part> <sha256>` for each part, in their order."""
        lines = "".join(f"{name} {part.sha256}\n" for name, part in sorted(self.parts.items()))
        uri = "; ".join(f"{name}: {part.uri}" for name, part in self.parts.items())
        return Source(uri=uri, sha256=sha256(lines.encode()).hexdigest())


@dataclass(frozen=True)
class BuiltPart:
    """A part on disk: its files as they are served, and of one with weights its checkpoint and its own proof."""

    folder: Path
    fetched: FetchedCheckpoint | None = None
    report: ParityReport | None = None


def source_of_script(uri: str, files: Mapping[str, Path]) -> PartSource:
    """Return what a part in Python is made of; its digest is of a line `<name> <sha256>` for each file, sorted."""
    sums = {name: _sha256(path) for name, path in files.items()}
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(sums.items()))
    return PartSource(uri=uri, sha256=sha256(lines.encode()).hexdigest(), files=sums)


def validate_ensemble(
    spec: ModelSpec,
    sources: PartSources,
    parts: Mapping[str, BuiltPart],
    folder: Path,
    *,
    version: int,
    samples: Arrays | None = None,
    progress: Progress = quiet,
) -> ParityReport:
    """
    Prove an ensemble, and write parity.json, parity.html, worst.npz and recorded.npz into `folder`.

    Its reference is each part's own, one after the other: eager PyTorch, and the very Python that is served. Raises
    what keeps a proof from being made at all: CheckpointUnreadable, TensorsDoNotMatch, FactoryFailed, PartFails,
    OnnxUnusable, ModelRefusesInputs.
    """
    from model_release.report.parity_page import write_parity_page

    progress("opening the parts")
    reference, candidate = _chains(spec, parts, version)
    report = parity.prove_chain(
        spec,
        reference,
        candidate,
        source=sources.source,
        files=_files(sources, parts),
        version=version,
        samples=samples,
        worst_path=folder / WORST,
        progress=progress,
    )
    if report.passed:
        progress("recording samples with the references' answers")
        recorded = parity.record_answers(spec, reference, parity.inputs_to_record(spec, samples))
        save_arrays(folder / RECORDED, recorded)
    (folder / PARITY).write_text(report.model_dump_json(indent=1))
    write_parity_page(report, folder / PAGE)
    return report


def _chains(spec: ModelSpec, parts: Mapping[str, BuiltPart], version: int) -> tuple[parity.Chain, parity.Chain]:
    """Return the references and the artefacts, each as one model; a part in Python is the same in both."""
    from model_release.parity.candidate import Candidate
    from model_release.parity.reference import Reference
    from model_release.repository.serving import MODEL_FILE

    configs = build_bundle(spec, version).parts
    references: dict[str, Any] = {}
    candidates: dict[str, Any] = {}
    for name, script in spec.python_parts.items():
        started = parity.Script(script, parts[name].folder, _as_json(configs[name]))
        references[name] = candidates[name] = started
    for name, own in spec.model_parts.items():
        fetched = parts[name].fetched
        if fetched is not None:
            references[name] = Reference(own, open_checkpoint(own, fetched))
        candidates[name] = Candidate(own, parts[name].folder / MODEL_FILE)
    return (
        parity.Chain(spec, references, is_candidate=False),
        parity.Chain(spec, candidates, is_candidate=True),
    )


def _as_json(config: ModelConfig) -> dict[str, Any]:
    """Return a config as Triton hands it to a model: JSON, with whole numbers as numbers."""
    from google.protobuf import json_format

    values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    for entry in (*values.get("input", []), *values.get("output", [])):
        entry["dims"] = [int(size) for size in entry["dims"]]
    return values


def _files(sources: PartSources, parts: Mapping[str, BuiltPart]) -> OnnxFile:
    """Return the files of all parts by their names in the archive; opset and precision are the graphs'."""
    from model_release.repository.serving import folder_of_part

    graphs = [part.report.onnx for part in parts.values() if part.report is not None]
    files = [(part, name, digest) for part, one in sources.parts.items() for name, digest in one.files.items()]
    return OnnxFile(
        files={folder_of_part(part) + name: digest for part, name, digest in files},
        size_bytes=sum((parts[part].folder / name).stat().st_size for part, name, _ in files),
        opset=max((graph.opset for graph in graphs), default=0),
        precision="fp16" if any(graph.precision == "fp16" for graph in graphs) else "fp32",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()

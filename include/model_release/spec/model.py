"""The whole model config, and what has to hold between its parts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from model_release.spec.canary import Canary, Standby
from model_release.spec.ensemble import BETWEEN, Face, Part, PartInstances, face_of, problems_of, tensors_of
from model_release.spec.notify import Notify
from model_release.spec.policy import ChangePolicy
from model_release.spec.proof import Accuracy, Embedding, Export, Parity, Tolerance, default_tolerance
from model_release.spec.section import Section
from model_release.spec.serving import Benchmark, Serving
from model_release.spec.source import OF_PARTS, PARTS, Source
from model_release.spec.tensors import TEXT, Axis, Input, Tensor

MOST_NAME_CHARACTERS = 40
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=MOST_NAME_CHARACTERS)]


def _no_double_underscore(name: str) -> str:
    if "__" in name:
        message = f"{name!r} holds '__', which is kept for the parts of an ensemble"
        raise ValueError(message)
    return name


def _one_cron_line(schedule: str | None) -> str | None:
    if schedule is not None and len(schedule.split()) != 5:
        message = f"schedule {schedule!r} must be a cron line of five fields, in UTC, or null"
        raise ValueError(message)
    return schedule


def _listed(value: Any) -> Any:
    return [] if value is None else value


@dataclass(frozen=True)
class PythonPart:
    """A part of an ensemble that Triton's Python backend runs: the name of its Triton model, and its folder."""

    model: str
    folder: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    instance_group: PartInstances


class ModelSpec(Section):
    """One served model: what `include/model_configs/<name>.yaml` says."""

    name: Annotated[ModelName, AfterValidator(_no_double_underscore)]
    owner: str = "ml-platform"
    description: str = ""
    schedule: Annotated[str | None, AfterValidator(_one_cron_line)] = None
    triggered_by: Annotated[list[str], BeforeValidator(_listed)] = []
    contract: Annotated[int, Field(ge=1)] = 1
    """Raised by a change that breaks clients: the model is then served under a name of its own, beside the old."""
    source: Source = OF_PARTS
    """Of everything but an ensemble, whose parts have sources of their own."""
    inputs: Annotated[list[Input], Field(min_length=1)]
    dynamic_axes: dict[str, Axis] = {}
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    export: Export = Export()
    parity: Parity = Parity()
    serving: Serving = Serving()
    benchmark: Benchmark = Benchmark()
    accuracy: Accuracy | None = None
    embedding: Embedding | None = None
    canary: Canary = Canary()
    standby: Standby = Standby()
    notify: list[Notify] = []
    change_policy: ChangePolicy = ChangePolicy()

    @model_validator(mode="after")
    def _axes_and_names(self) -> ModelSpec:
        named = {axis for tensor in self.inputs for axis in tensor.shape if isinstance(axis, str)}
        unknown = sorted(named - set(self.dynamic_axes))
        if unknown:
            message = f"inputs name the axes {unknown}, which dynamic_axes does not describe"
            raise ValueError(message)
        unused = sorted(set(self.dynamic_axes) - named)
        if unused:
            message = f"dynamic_axes describes {unused}, which no input names"
            raise ValueError(message)
        for tensors in (self.inputs, self.outputs):
            names = [tensor.name for tensor in tensors]
            if len(names) != len(set(names)):
                message = f"tensor names must differ, got {names}"
                raise ValueError(message)
        outputs = [tensor.name for tensor in self.outputs]
        asked: dict[str, list[str | None]] = {
            "parity.outputs": [*self.parity.outputs],
            "accuracy.output": [self.accuracy.output] if self.accuracy else [],
            "embedding.output": [self.embedding.output] if self.embedding else [],
        }
        for where, asked_names in asked.items():
            foreign = [name for name in asked_names if name is not None and name not in outputs]
            if foreign:
                message = f"{where} names {foreign}, the outputs are {outputs}"
                raise ValueError(message)
        if self.accuracy is None and (blind := [gate.name for gate in self.canary.gates if gate.kind == "accuracy"]):
            message = f"canary.gates {blind} judge accuracy, which needs accuracy.golden_set"
            raise ValueError(message)
        sourceless = [g.name for g in self.canary.gates if g.kind == "proportion" and g.source is None]
        if sourceless:
            message = f"canary.gates {sourceless} need a source with promql_good and promql_total"
            raise ValueError(message)
        most = self.serving.max_batch_size
        too_big = [size for size in self.parity.batch_sizes if most and size > most]
        if too_big:
            message = f"parity.batch_sizes {too_big} are above serving.max_batch_size {most}"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _search_fits(self) -> ModelSpec:
        """Refuse what no config could hold, before a release is at its benchmark."""
        search, most = self.benchmark.search, self.serving.max_batch_size
        alone = {
            name: getattr(search, name) for name in ("preferred_batch_size", "max_batch_size", "intra_op_thread_count")
        }
        listed = [name for name, values in alone.items() if values]
        if listed and self.serving.ensemble is not None:
            message = f"benchmark.search: {listed} is not searched of an ensemble; its parts say it themselves"
            raise ValueError(message)
        too_big = [size for size in search.max_batch_size if size > most]
        if too_big:
            message = f"benchmark.search.max_batch_size {too_big} is above serving.max_batch_size {most}"
            raise ValueError(message)
        preferred = [size for sizes in search.preferred_batch_size for size in sizes if size > most]
        if preferred:
            message = f"benchmark.search.preferred_batch_size {preferred} is above serving.max_batch_size {most}"
            raise ValueError(message)
        if search.intra_op_thread_count and self.serving.backend != "onnxruntime":
            message = f"benchmark.search.intra_op_thread_count is of onnxruntime, not of {self.serving.backend}"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _a_source_for_its_backend(self) -> ModelSpec:
        source = self.source
        if self.serving.backend != "pytorch":
            if source.format == "torchscript" and (source.factory is not None or source.factory_kwargs):
                message = "factory is for state_dict, and for a torchscript on serving.backend: pytorch"
                raise ValueError(message)
            return self
        if source.format != "torchscript":
            message = (
                f"serving.backend: pytorch serves a checkpoint of the format torchscript as it is, this is a "
                f"{source.format}, which becomes an ONNX file: leave backend out"
            )
            raise ValueError(message)
        if self.export != Export():
            message = "export says how an ONNX file is made; serving.backend: pytorch serves the checkpoint as it is"
            raise ValueError(message)
        return self

    def pinned(self, sha256: str | None) -> ModelSpec:
        """Return the spec of a release whose training named this sha256; the same where the config pins the file."""
        if self.source.pinned_by is None or sha256 is None:
            return self
        return self.model_copy(update={"source": self.source.model_copy(update={"sha256": sha256})})

    @model_validator(mode="after")
    def _of_parts_or_of_a_checkpoint(self) -> ModelSpec:
        if self.serving.ensemble is None:
            if self.source.format == PARTS:
                message = "source is missing: it says where the trained weights lie"
                raise ValueError(message)
            texts = [tensor.name for tensor in (*self.inputs, *self.outputs) if tensor.dtype == TEXT]
            if texts:
                message = (
                    f"{texts} are text, which no exported graph takes or gives: serve it behind a part in Python, as "
                    "an ensemble (serving.ensemble)"
                )
                raise ValueError(message)
            return self
        if self.source.format != PARTS:
            message = "an ensemble has no source: each part is built from that of its own config"
            raise ValueError(message)
        for name, usual in (("export", Export()), ("accuracy", None), ("embedding", None)):
            if getattr(self, name) != usual:
                message = f"{name} is not for an ensemble: a part is exported and held against it by its own config"
                raise ValueError(message)
        if self.serving.ensemble.is_resolved:
            problems = [*self._problems_of_parts(), *self._problems_of_wiring()]
            if problems:
                raise ValueError("serving.ensemble: " + "; ".join(problems))
        return self

    def _problems_of_parts(self) -> list[str]:
        found = []
        for name, part in self._parts.items():
            inner = self._spec_of(part)
            if inner is None:
                continue
            if inner.serving.ensemble is not None:
                found.append(f"part {name!r} is {part.config!r}, an ensemble itself; name its parts here")
            elif inner.serving.is_engine:
                found.append(
                    f"part {name!r} is {part.config!r} of the backend tensorrt, and a part is served as its ONNX file: "
                    "name tensorrt in its serving.accelerators instead"
                )
            elif inner.source.is_code:
                found.append(
                    f"part {name!r} is {part.config!r}, whose checkpoint is a program ({inner.source.format}); an "
                    "ensemble is proved in one process, where no such program may run. Release a state_dict"
                )
        return found

    def _problems_of_wiring(self) -> list[str]:
        ensemble = self.serving.ensemble
        if ensemble is None:
            return []
        return problems_of(ensemble, self.inputs, self.outputs, self.serving.max_batch_size, self._faces)

    @property
    def _parts(self) -> dict[str, Part]:
        return self.serving.ensemble.parts if self.serving.ensemble else {}

    @staticmethod
    def _spec_of(part: Part) -> ModelSpec | None:
        return None if part.spec is None else ModelSpec.model_validate(part.spec)

    @property
    def _faces(self) -> dict[str, Face]:
        faces = {}
        for name, part in self._parts.items():
            inner = self._spec_of(part)
            faces[name] = (
                Face(part.inputs or None, part.outputs or None)
                if inner is None
                else Face(inner.inputs, inner.outputs, inner.serving.max_batch_size)
            )
        return faces

    @property
    def model_parts(self) -> dict[str, ModelSpec]:
        """The parts of an ensemble that are built from a checkpoint, each with its whole config, by part."""
        found = {name: self._spec_of(part) for name, part in self._parts.items()}
        return {name: spec.served_as(part_model(self.name, name)) for name, spec in found.items() if spec is not None}

    @property
    def python_parts(self) -> dict[str, PythonPart]:
        """The parts of an ensemble that are folders of the repository, by part."""
        ensemble, faces = self.serving.ensemble, self._faces
        if ensemble is None:
            return {}
        types = tensors_of(ensemble, self.inputs, self.outputs, faces)
        found = {}
        for name, part in ensemble.parts.items():
            if part.python is not None:
                inputs, outputs = face_of(ensemble, name, types, faces[name])
                model = part_model(self.name, name)
                instances = part.instance_group or PartInstances()
                found[name] = PythonPart(model, part.python.rstrip("/"), inputs, outputs, instances)
        return found

    @property
    def checkpoint_template(self) -> str:
        """The one checkpoint that a release is built from: its own, or its only part's; empty if there are several."""
        if self.serving.ensemble is None:
            return self.source.checkpoint
        sources = [spec.source.checkpoint for spec in self.model_parts.values()]
        return sources[0] if len(sources) == 1 else ""

    @property
    def served_name(self) -> str:
        """The name that clients ask for, with a ledger, an archive and a route of its own."""
        return served_name(self.name, self.contract)

    def served_as(self, model: str) -> ModelSpec:
        """Return the spec under the name that is served, as all is that a release writes."""
        return self.model_copy(update={"name": model})

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes at which parity is proved, rising; without batching a client may still send a few."""
        most = self.serving.max_batch_size or 3
        return sorted(set(self.parity.batch_sizes or [1, min(3, most), most]))

    def tolerance(self, output: str) -> Tolerance:
        """Return how far an output, by its name, may be from the reference."""
        own = self.parity.outputs.get(output)
        if own is not None:
            return own
        dtype = next(tensor.dtype for tensor in self.outputs if tensor.name == output)
        usual = default_tolerance(dtype, self.export.precision)
        if not dtype.startswith("float"):
            return usual
        atol, rtol = self.parity.atol, self.parity.rtol
        return Tolerance(atol=usual.atol if atol is None else atol, rtol=usual.rtol if rtol is None else rtol)

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON of the spec."""
        return digest_of(self.model_dump(mode="json"))


def part_model(model: str, part: str) -> str:
    """Return the name of the Triton model that a part of an ensemble is."""
    return f"{model}{BETWEEN}{part}"


def owner_of(triton_model: str) -> str:
    """Return the model that a Triton model belongs to: an ensemble's part to the ensemble, any other to itself."""
    return triton_model.partition(BETWEEN)[0]


def served_name(name: str, contract: int) -> str:
    """Return the name that a contract of a model is served by: the model's own, from the second on `<name>_v2`."""
    return name if contract == 1 else f"{name}_v{contract}"


def digest_of(values: dict[str, Any]) -> str:
    """
    Return the sha256 of the canonical JSON of a spec's values.

    A frozen spec is held against its digest as it was written, so that fields added since change nothing.
    """
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

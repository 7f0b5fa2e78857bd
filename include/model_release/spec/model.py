"""The whole model config, and what has to hold between its parts."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from model_release.spec.canary import Canary, Standby
from model_release.spec.notify import Notify
from model_release.spec.policy import ChangePolicy
from model_release.spec.proof import Accuracy, Embedding, Export, Parity, Tolerance, default_tolerance
from model_release.spec.section import Section
from model_release.spec.serving import Benchmark, Serving
from model_release.spec.source import Source
from model_release.spec.tensors import Axis, Input, Tensor

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


class ModelSpec(Section):
    """One served model: what `include/model_configs/<name>.yaml` says."""

    name: Annotated[ModelName, AfterValidator(_no_double_underscore)]
    owner: str = "ml-platform"
    description: str = ""
    schedule: Annotated[str | None, AfterValidator(_one_cron_line)] = None
    triggered_by: Annotated[list[str], BeforeValidator(_listed)] = []
    contract: Annotated[int, Field(ge=1)] = 1
    """Raised by a change that breaks clients: the model is then served under a name of its own, beside the old."""
    source: Source
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

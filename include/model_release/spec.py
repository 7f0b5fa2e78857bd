"""
The model config: one YAML file a model, checked whole before anything is touched.

Every field that is accepted is honoured; an unknown key is an error that names its neighbour.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

#: numpy names of the tensor types that a spec may name; Triton's names are derived from them.
Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Percent = Annotated[int, Field(ge=1, le=100)]


def _no_double_underscore(name: str) -> str:
    if "__" in name:
        message = f"{name!r} holds '__', which is kept for the parts of an ensemble"
        raise ValueError(message)
    return name


class Section(BaseModel):
    """A part of the config: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """Where the trained weights lie and what builds the module that takes them."""

    format: Literal["state_dict"] = "state_dict"
    checkpoint: str
    factory: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    factory_kwargs: dict[str, Any] = {}
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    max_bytes: Annotated[int, Field(gt=0)] = 8 * 2**30

    @model_validator(mode="after")
    def _known_scheme_and_variables(self) -> Source:
        if not self.checkpoint.startswith(("s3://", "file://")):
            message = f"checkpoint {self.checkpoint!r} must start with s3:// or file://"
            raise ValueError(message)
        for variable in template_variables(self.checkpoint):
            if variable not in CHECKPOINT_VARIABLES and not variable.startswith("asset.extra."):
                message = (
                    f"checkpoint names the variable {variable!r}; there are "
                    f"{', '.join(CHECKPOINT_VARIABLES)} and asset.extra.<key>"
                )
                raise ValueError(message)
        return self


#: What `{{ ... }}` in source.checkpoint may name: the run's UTC date as YYYY-MM-DD, and its version.
CHECKPOINT_VARIABLES = ("date", "version")
_VARIABLE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")


def template_variables(text: str) -> list[str]:
    """Return the names inside `{{ }}` of a template, in order."""
    return _VARIABLE.findall(text)


def render_template(text: str, variables: dict[str, str]) -> str:
    """
    Put values into the `{{ name }}` places of a template.

    Raises KeyError when the template names a variable without a value.
    """
    return _VARIABLE.sub(lambda match: variables[match.group(1)], text)


class Tensor(Section):
    """An input or output, without its batch axis; a name in `shape` is a dynamic axis."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")]
    dtype: Dtype
    shape: list[Annotated[int, Field(ge=1)] | Annotated[str, StringConstraints(pattern=r"^[a-z_]\w*$")]]


class Input(Tensor):
    """An input; `range` bounds the values generated for it, both ends included."""

    range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _rising_range(self) -> Input:
        if self.range is not None and self.range[0] > self.range[1]:
            message = f"range {list(self.range)} of input {self.name!r} must rise"
            raise ValueError(message)
        return self


class Axis(Section):
    """The sizes that a dynamic axis may take."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _rising(self) -> Axis:
        if self.min >= self.max:
            message = f"min {self.min} must be below max {self.max}"
            raise ValueError(message)
        return self


class Export(Section):
    """How the ONNX graph is made."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20


class Parity(Section):
    """How equal ONNX and PyTorch must be: |a - b| <= atol + rtol * |reference|, element by element."""

    atol: Annotated[float, Field(ge=0)] = 1e-4
    rtol: Annotated[float, Field(ge=0)] = 1e-3
    batch_sizes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 3, 64]
    samples: str | None = None


class InstanceGroup(Section):
    """Triton's instance_group: where a replica runs the model, and how many times."""

    kind: Literal["cpu", "gpu", "auto"] = "auto"
    count: Annotated[int, Field(ge=1)] = 1


class DynamicBatching(Section):
    """Triton's dynamic_batching."""

    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 2000
    preferred_batch_size: list[Annotated[int, Field(ge=1)]] = []


class Queue(Section):
    """
    The limits of Triton's queue; past them a request is rejected, not kept for ever.

    Not set by default: with limits, Triton 2.51 at times leaves a request waiting for 500 ms
    (triton-inference-server/server#8870). Set them on a release that has the fix, and benchmark.
    """

    max_size: Annotated[int, Field(ge=1)] = 512
    timeout_ms: Annotated[int, Field(ge=1)] = 1000


class Serving(Section):
    """How Triton serves the model."""

    backend: Literal["onnxruntime"] = "onnxruntime"
    fleet_pair: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = "default"
    max_batch_size: Annotated[int, Field(ge=1)] = 64
    instance_group: InstanceGroup = InstanceGroup()
    dynamic_batching: DynamicBatching = DynamicBatching()
    queue: Queue | None = None
    warmup: bool = True
    parameters: dict[str, str] = {}

    @model_validator(mode="after")
    def _preferred_sizes_fit(self) -> Serving:
        for size in self.dynamic_batching.preferred_batch_size:
            if size > self.max_batch_size:
                message = f"preferred_batch_size {size} is above max_batch_size {self.max_batch_size}"
                raise ValueError(message)
        return self


class LatencyObjective(Section):
    """An absolute bound on the 99th percentile."""

    p99_ms: Annotated[float, Field(gt=0)]


class BenchmarkSearch(Section):
    """The values that are tried on bench, each with each."""

    max_queue_delay_microseconds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 500, 2000]
    instance_count: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1]


class Benchmark(Section):
    """What is measured on bench before any fleet is touched."""

    objective: LatencyObjective = LatencyObjective(p99_ms=50)
    concurrency: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)] = [1, 8, 32]
    search: BenchmarkSearch = BenchmarkSearch()
    budget_s: Annotated[float, Field(gt=0)] = 120
    max_slowdown: Annotated[float, Field(gt=1)] = 1.2


class Accuracy(Section):
    """The golden set (an .npz of the inputs by name, and `label`) and how much worse than stable is allowed."""

    golden_set: str
    metric: Literal["top1"] = "top1"
    margin: Annotated[float, Field(ge=0, le=1)] = 0.02
    minimum: Annotated[float, Field(ge=0, le=1)] = 0.0


class ErrorRateGate(Section):
    """Judge the share of failed requests."""

    name: str
    kind: Literal["error_rate"]
    odds_ratio: Annotated[float, Field(ge=1)] = 1.5
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    weight: Annotated[float, Field(gt=0)] = 0.5
    objective: Annotated[float, Field(gt=0, lt=1)] = 0.01
    dry_run: bool = False


class LatencyGate(Section):
    """Judge the share of requests slower than bounds set by stable's own latency."""

    name: str
    kind: Literal["latency"]
    slower_than: Annotated[float, Field(ge=1)] = 1.10
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.02
    bounds_ms: list[Annotated[float, Field(gt=0)]] | None = None
    weight: Annotated[float, Field(gt=0)] = 0.5
    objective: LatencyObjective = LatencyObjective(p99_ms=50)
    dry_run: bool = False


Gate = Annotated[ErrorRateGate | LatencyGate, Field(discriminator="kind")]


class Canary(Section):
    """The stages of the traffic shift and how each is judged."""

    stages: Annotated[list[Percent], Field(min_length=1)] = [10, 50, 100]
    warmup_s: Annotated[float, Field(ge=0)] = 30
    min_bake_s: Annotated[float, Field(ge=0)] = 120
    max_bake_s: Annotated[float, Field(gt=0)] = 900
    look_interval_s: Annotated[float, Field(ge=0.5)] = 5
    hold_s: Annotated[float, Field(ge=0)] = 3600
    min_requests: Annotated[int, Field(ge=1)] = 1000
    alpha_rollback: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    alpha_advance: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    on_inconclusive: Literal["hold", "rollback", "advance"] = "hold"
    gates: Annotated[list[Gate], Field(min_length=1)] = [
        ErrorRateGate(name="errors", kind="error_rate"),
        LatencyGate(name="latency", kind="latency"),
    ]

    @model_validator(mode="after")
    def _consistent(self) -> Canary:
        if self.stages != sorted(set(self.stages)) or self.stages[-1] != 100:
            message = f"stages {self.stages} must rise and end at 100"
            raise ValueError(message)
        if self.min_bake_s >= self.max_bake_s:
            message = f"min_bake_s {self.min_bake_s} must be below max_bake_s {self.max_bake_s}"
            raise ValueError(message)
        names = [gate.name for gate in self.gates]
        if len(names) != len(set(names)):
            message = f"gates need names of their own, got {names}"
            raise ValueError(message)
        return self


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
    contract: Literal[1] = 1
    source: Source
    inputs: Annotated[list[Input], Field(min_length=1)]
    dynamic_axes: dict[str, Axis] = {}
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    export: Export = Export()
    parity: Parity = Parity()
    serving: Serving = Serving()
    benchmark: Benchmark = Benchmark()
    accuracy: Accuracy | None = None
    canary: Canary = Canary()

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
        too_big = [size for size in self.parity.batch_sizes if size > self.serving.max_batch_size]
        if too_big:
            message = f"parity.batch_sizes {too_big} are above serving.max_batch_size {self.serving.max_batch_size}"
            raise ValueError(message)
        return self

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON of the spec."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

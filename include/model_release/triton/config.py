"""
config.pbtxt: from the spec, through Triton's own protobuf, to text and back.

Everything that Triton would guess is written out, so a config means the same on every server; the parameter
`release_digest` names it, and a replica proves by it which config it serves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model_release.errors import BadModelConfig
from model_release.spec import Axis, ModelSpec, Serving, Tensor

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
RELEASE_DIGEST = "release_digest"
_MICROSECONDS = 1000
_TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
_KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO"}


@dataclass(frozen=True)
class Tuning:
    """The part of a config that the benchmark searches."""

    max_queue_delay_microseconds: int
    preferred_batch_size: tuple[int, ...] = ()
    instance_count: int = 1

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Tuning:
        """Return the tuning that the spec itself asks for; without batching nothing waits for others."""
        batching = spec.serving.dynamic_batching
        return cls(
            batching.max_queue_delay_microseconds if spec.serving.batching else 0,
            tuple(batching.preferred_batch_size),
            spec.serving.instance_group.count,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the tuning as JSON values."""
        return {**asdict(self), "preferred_batch_size": list(self.preferred_batch_size)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tuning:
        """Read what `to_dict` wrote."""
        return cls(**{**values, "preferred_batch_size": tuple(values["preferred_batch_size"])})


def build_config(spec: ModelSpec, version: int, tuning: Tuning | None = None) -> ModelConfig:
    """
    Return the whole config of one version; `tuning` is by default the spec's own.

    Raises BadModelConfig for what Triton would refuse.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    tuning = tuning or Tuning.from_spec(spec)
    _check(spec, tuning)
    serving = spec.serving
    config = pb.ModelConfig(name=spec.name, backend=serving.backend, max_batch_size=serving.max_batch_size)
    config.version_policy.specific.versions.append(version)
    for given in spec.inputs:
        _describe(config.input.add(), given, serving.batching)
    for answered in spec.outputs:
        _describe(config.output.add(), answered, serving.batching)
    config.instance_group.add(kind=_KINDS[serving.instance_group.kind], count=tuning.instance_count)
    if serving.batching:
        _batch(config.dynamic_batching, serving, tuning)
    for name, value in serving.parameters.items():
        config.parameters[name].string_value = value
    if serving.warmup:
        for batch_size in sorted({1, serving.max_batch_size or 1}):
            _warm_up(config.model_warmup.add(), spec, batch_size)
    config.parameters[RELEASE_DIGEST].string_value = release_digest(config)
    return config


def release_digest(config: ModelConfig) -> str:
    """Return the sha256 of the canonical config: JSON with sorted keys, without the digest itself and defaults."""
    from google.protobuf import json_format

    fields = json_format.MessageToDict(config, preserving_proto_field_name=True)
    parameters = {name: value for name, value in fields.pop("parameters", {}).items() if name != RELEASE_DIGEST}
    canonical = json.dumps({**fields, "parameters": parameters}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def render(config: ModelConfig, epoch: int) -> str:
    """Return the text of config.pbtxt; the first line is the epoch that wrote it, which Triton does not read."""
    from google.protobuf import text_format

    return f"# epoch={epoch}\n{text_format.MessageToString(config)}"


def parse(text: str) -> ModelConfig:
    """
    Read what `render` wrote.

    Raises BadModelConfig when it is no config that Triton could read.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise BadModelConfig(CONFIG_FILE, [" ".join(str(error).split())]) from None


def disabled(config: ModelConfig) -> ModelConfig:
    """Return the config that serves no version: a newborn replica skips the model."""
    from tritonclient.grpc import model_config_pb2 as pb

    off = pb.ModelConfig()
    off.CopyFrom(config)
    off.version_policy.specific.ClearField("versions")
    off.version_policy.specific.SetInParent()
    off.parameters[RELEASE_DIGEST].string_value = release_digest(off)
    return off


def _check(spec: ModelSpec, tuning: Tuning) -> None:
    """Mirror the rules of Triton's ValidateModelConfig that a spec or a tuning could break."""
    problems = []
    if RELEASE_DIGEST in spec.serving.parameters:
        problems.append(f"serving.parameters: {RELEASE_DIGEST!r} is written by the pipeline")
    too_big = [size for size in tuning.preferred_batch_size if not 1 <= size <= spec.serving.max_batch_size]
    if not spec.serving.batching:
        problems += _needs_batching(spec, tuning)
    elif too_big:
        problems.append(f"preferred_batch_size {too_big} must be within 1 and {spec.serving.max_batch_size}")
    if tuning.instance_count < 1:
        problems.append(f"instance_count must be at least 1, got {tuning.instance_count}")
    if tuning.max_queue_delay_microseconds < 0:
        problems.append(f"max_queue_delay_microseconds must not be negative, got {tuning.max_queue_delay_microseconds}")
    if problems:
        raise BadModelConfig(spec.name, problems)


def _needs_batching(spec: ModelSpec, tuning: Tuning) -> list[str]:
    """Name what would have no effect: Triton keeps a queue's limits in dynamic_batching alone."""
    asked = {
        "preferred_batch_size": list(tuning.preferred_batch_size),
        "max_queue_delay_microseconds": tuning.max_queue_delay_microseconds,
        "serving.queue": spec.serving.queue,
    }
    return [
        f"{name} needs batching, which serving.max_batch_size: 0 switches off; remove it"
        for name, value in asked.items()
        if value
    ]


def _batch(entry: Any, serving: Serving, tuning: Tuning) -> None:
    """Fill a ModelDynamicBatching."""
    from tritonclient.grpc import model_config_pb2 as pb

    entry.SetInParent()
    entry.max_queue_delay_microseconds = tuning.max_queue_delay_microseconds
    entry.preferred_batch_size.extend(sorted(tuning.preferred_batch_size))
    if serving.queue is not None:
        limits = entry.default_queue_policy
        limits.timeout_action = pb.ModelQueuePolicy.REJECT
        limits.default_timeout_microseconds = serving.queue.timeout_ms * _MICROSECONDS
        limits.max_queue_size = serving.queue.max_size


def _describe(entry: Any, tensor: Tensor, batching: bool) -> None:
    """
    Fill a ModelInput or ModelOutput.

    With batching Triton adds the batch axis itself, and one value a sample is dims [1] reshaped to [], as Triton has no
    empty dims. Without it the client's own batch is the first of the dims.
    """
    entry.name = tensor.name
    entry.data_type = _TRITON_TYPES[tensor.dtype]
    if not batching:
        entry.dims.append(-1)
    if tensor.shape or not batching:
        entry.dims.extend(-1 if isinstance(size, str) else size for size in tensor.shape)
    else:
        entry.dims.append(1)
        entry.reshape.SetInParent()


def _warm_up(entry: Any, spec: ModelSpec, batch_size: int) -> None:
    """
    Fill a ModelWarmup from the recorded sample of each input, which Triton repeats to the batch size.

    Without batching the dims are complete, and the batch size is 1: Triton skips a warm-up of batch size 0 in silence
    (GenerateWarmupData in core's backend_model_instance.cc). A dynamic axis is warmed at its least size: Triton takes a
    file that is longer than needed, and the first values of a recorded sample are valid values.
    """
    entry.name = f"recorded sample, batch {batch_size}"
    entry.batch_size = batch_size
    for tensor in spec.inputs:
        one = entry.inputs[tensor.name]
        one.data_type = _TRITON_TYPES[tensor.dtype]
        if not spec.serving.batching:
            one.dims.append(1)
        one.dims.extend(_least(size, spec.dynamic_axes) for size in tensor.shape)
        if not one.dims:
            one.dims.append(1)
        one.input_data_file = tensor.name


def _least(size: int | str, axes: dict[str, Axis]) -> int:
    return axes[size].min if isinstance(size, str) else size

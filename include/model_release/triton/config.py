"""
config.pbtxt: from the spec, through Triton's own protobuf.

Everything that Triton would guess is written out, so a config means the same on every server; the parameter
`release_digest` names it, and a replica proves by it which config it serves. `text` is how it is written and read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec
from model_release.triton import onnxruntime, pytorch, raw, rules, sections, tensorrt
from model_release.triton.text import CONFIG_FILE, RELEASE_DIGEST, disabled, naming, parse, release_digest, render

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = [
    "CONFIG_FILE",
    "RELEASE_DIGEST",
    "Tuning",
    "build_config",
    "disabled",
    "naming",
    "parse",
    "release_digest",
    "render",
]

#: The parameter of the ONNX Runtime backend that the benchmark may search.
THREADS = "intra_op_thread_count"


@dataclass(frozen=True)
class Tuning:
    """The part of a config that the benchmark searches."""

    max_queue_delay_microseconds: int
    preferred_batch_size: tuple[int, ...] = ()
    instance_count: int = 1
    max_batch_size: int | None = None
    """None, as for the threads: what the spec says."""
    intra_op_thread_count: int | None = None

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Tuning:
        """
        Return the tuning that the spec itself asks for; without batching nothing waits for others.

        Of an ensemble it is that of the first part that is built from a checkpoint.
        """
        if spec.serving.ensemble is not None:
            return next((cls.from_spec(part) for part in spec.model_parts.values()), cls(0))
        batching = spec.serving.dynamic_batching
        return cls(
            batching.max_queue_delay_microseconds if spec.serving.batching else 0,
            tuple(batching.preferred_batch_size),
            spec.serving.instance_group.count,
        )

    def of_part(self, spec: ModelSpec) -> Tuning:
        """Return the tuning of an ensemble's part, whose sizes of batches are its own: the ensemble's have to fit."""
        own = Tuning.from_spec(spec)
        delay = self.max_queue_delay_microseconds if spec.serving.batching else 0
        return replace(
            self,
            max_queue_delay_microseconds=delay,
            preferred_batch_size=own.preferred_batch_size,
            max_batch_size=None,
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

    Raises BadModelConfig, with every problem, for what Triton would refuse or pass over in silence.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    tuning = tuning or Tuning.from_spec(spec)
    of_backend = [*onnxruntime.problems_of(spec.serving), *pytorch.problems_of(spec), *tensorrt.problems_of(spec)]
    _refuse(spec, [*_of_tuning(spec, tuning), *of_backend])
    serving = spec.serving
    max_batch_size = serving.max_batch_size if tuning.max_batch_size is None else tuning.max_batch_size
    config = pb.ModelConfig(name=spec.name, backend=serving.backend, max_batch_size=max_batch_size)
    config.version_policy.specific.versions.append(version)
    for given in spec.inputs:
        sections.describe(config.input.add(), given, serving.batching)
    for answered in spec.outputs:
        sections.describe(config.output.add(), answered, serving.batching)
    sections.instances(config.instance_group.add(), serving.instance_group, tuning.instance_count)
    if serving.batching:
        sections.batch(config.dynamic_batching, serving)
        config.dynamic_batching.max_queue_delay_microseconds = tuning.max_queue_delay_microseconds
        config.dynamic_batching.preferred_batch_size.extend(sorted(tuning.preferred_batch_size))
    sections.accelerate(config, serving.accelerators)
    if serving.response_cache:
        config.response_cache.enable = True
    for name, value in serving.parameters.items():
        config.parameters[name].string_value = value
    if tuning.intra_op_thread_count is not None:
        config.parameters[THREADS].string_value = str(tuning.intra_op_thread_count)
    if serving.warmup:
        for batch_size in sections.warmup_sizes(max_batch_size, tuning.preferred_batch_size):
            sections.warm_up(config.model_warmup.add(), spec, batch_size)
    _refuse(spec, [*raw.merge(config, serving.raw), *rules.broken(config)])
    config.parameters[RELEASE_DIGEST].string_value = release_digest(config)
    return config


def _refuse(spec: ModelSpec, problems: list[str]) -> None:
    if problems:
        raise BadModelConfig(spec.name, problems)


def _of_tuning(spec: ModelSpec, tuning: Tuning) -> list[str]:
    """Say what of a tuning no config could hold."""
    problems = [] if spec.serving.batching else _needs_batching(spec, tuning)
    if tuning.instance_count < 1:
        problems.append(f"instance_count must be at least 1, got {tuning.instance_count}")
    if tuning.max_queue_delay_microseconds < 0:
        problems.append(f"max_queue_delay_microseconds must not be negative, got {tuning.max_queue_delay_microseconds}")
    most, own = tuning.max_batch_size, spec.serving.max_batch_size
    if most is not None and not 1 <= most <= own:
        problems.append(f"max_batch_size must be from 1 to {own}, which the version was proved for, got {most}")
    if tuning.intra_op_thread_count is not None and spec.serving.backend != "onnxruntime":
        problems.append(f"{THREADS} is of the backend onnxruntime, not of {spec.serving.backend}")
    return problems


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

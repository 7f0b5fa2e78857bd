"""Configs that break a rule: what we say of each, and what the real Triton does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf import json_format

from model_release.spec import ModelSpec

VERSION = 20260101000000


def line_spec(**serving: Any) -> ModelSpec:
    """Return the spec of y = slope * x, on a CPU in batches of up to 8."""
    values = {
        "name": "line",
        "source": {"checkpoint": "s3://training/line.safetensors", "factory": "example:build"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [4]}],
        "parity": {"batch_sizes": [1]},
        "serving": {"max_batch_size": 8, "instance_group": {"kind": "cpu", "count": 1}, **serving},
    }
    return ModelSpec.model_validate(values)


def sharing(shared: bool, name: str = "line", **serving: Any) -> ModelSpec:
    """Return a spec whose instance holds a core while it runs: of the server's, or of its device's."""
    group = {"kind": "cpu", "rate_limiter": {"resources": [{"name": "cores", "shared": shared}]}}
    return line_spec(instance_group=group, **serving).model_copy(update={"name": name})


@dataclass(frozen=True)
class Case:
    """
    A change of a good config that breaks one rule.

    `sentence` is ours. `triton` says what the server of the sandbox (2.51, no GPU, rate limiting and response cache on)
    does: it refuses the config with the words `log`; it takes it, so the rule is ours; it ends; or it refuses
    this one and from then on every other.
    """

    name: str
    change: Callable[[Any], None]
    sentence: str
    triton: Literal["refuses", "takes", "refuses or ends", "refuses all from then on"]
    log: str = ""


def adding(**fields: Any) -> Callable[[Any], None]:
    """Return the change that merges JSON into a config."""
    return lambda config: json_format.ParseDict(fields, config)


def batching(**fields: Any) -> Callable[[Any], None]:
    return adding(dynamic_batching=fields)


def group(**fields: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        json_format.ParseDict(fields, config.instance_group[0])

    return change


def resources(*entries: dict[str, Any]) -> Callable[[Any], None]:
    return group(rate_limiter={"resources": list(entries)})


def accelerators(**lists: list[str]) -> Callable[[Any], None]:
    named = {f"{device}_execution_accelerator": [{"name": name} for name in names] for device, names in lists.items()}
    return adding(optimization={"execution_accelerators": named})


def warm_up_16(config: Any) -> None:
    config.model_warmup[0].batch_size = 16


DELAY = {"timeout_action": "DELAY", "default_timeout_microseconds": 1000}
TWO_LEVELS = {"priority_levels": 2, "default_priority_level": 1}
ONE_LEVEL = {"priority_levels": 1, "default_priority_level": 1}
METRIC = {"metric_identifier": {"family": "nv_inference_first_response_histogram_ms"}}

CASES = [
    Case(
        "a preferred size above the largest",
        batching(preferred_batch_size=[9]),
        "preferred_batch_size [9] must be within 1 and 8",
        "refuses",
        "dynamic batching preferred size must be <= max batch size",
    ),
    Case(
        "a preferred size of 0",
        batching(preferred_batch_size=[0]),
        "preferred_batch_size [0] must be within 1 and 8",
        "refuses",
        "dynamic batching preferred size must be positive",
    ),
    Case(
        "priorities without a default",
        batching(priority_levels=2),
        "default_priority_level must be within 1 and priority_levels, 2; it is 0",
        "refuses",
        "default priority level must be in range [1, 2]",
    ),
    Case(
        "a default beyond the priorities",
        batching(priority_levels=2, default_priority_level=3),
        "default_priority_level must be within 1 and priority_levels, 2; it is 3",
        "refuses",
        "default priority level must be in range [1, 2]",
    ),
    Case(
        "a policy beyond the priorities",
        batching(**TWO_LEVELS, priority_queue_policy={"3": {"max_queue_size": 1}}),
        "there are policies for [3]",
        "refuses",
        "priority queue policy must have priority level in range [1, 2]",
    ),
    Case(
        "a policy without priorities",
        batching(priority_queue_policy={"1": {"max_queue_size": 1}}),
        "need priority_levels, without which Triton passes over them",
        "takes",
    ),
    Case(
        "a default without priorities",
        batching(default_priority_level=1),
        "need priority_levels, without which Triton passes over them",
        "takes",
    ),
    Case(
        "ordering and two priorities",
        batching(**TWO_LEVELS, preserve_ordering=True),
        "preserve_ordering allows one priority level, there are 2",
        "refuses",
        "Only one priority level is allowed when 'preserve_ordering' is true",
    ),
    Case(
        "ordering and delay",
        batching(preserve_ordering=True, default_queue_policy=DELAY),
        "preserve_ordering and timeout_action: delay exclude each other",
        "refuses",
        "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true",
    ),
    Case(
        "ordering and delay in the one priority",
        batching(**ONE_LEVEL, preserve_ordering=True, priority_queue_policy={"1": DELAY}),
        "preserve_ordering and timeout_action: delay exclude each other",
        "refuses",
        "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true",
    ),
    Case(
        "delay without a timeout",
        batching(default_queue_policy={"timeout_action": "DELAY"}),
        "delay of the queue has no effect without a timeout",
        "takes",
    ),
    Case(
        "a timeout of one's own without one to shorten",
        batching(**ONE_LEVEL, priority_queue_policy={"1": {"allow_timeout_override": True}}),
        "allow_timeout_override of priority 1 has no effect without a timeout",
        "takes",
    ),
    Case(
        "GPUs for the CPU",
        group(gpus=[0]),
        "instance_group.gpus [0] needs kind: gpu; with cpu a replica on a CPU refuses the model",
        "refuses",
        "has kind KIND_CPU but specifies one or more GPUs",
    ),
    Case(
        "GPUs for where there may be none",
        group(kind="KIND_AUTO", gpus=[0]),
        "instance_group.gpus [0] needs kind: gpu; with auto a replica on a CPU refuses the model",
        "refuses",
        "has kind KIND_CPU but specifies one or more GPUs",
    ),
    Case(
        "a profile of another backend",
        group(profile=["0"]),
        "instance_group.profile is for the backend tensorrt, this is onnxruntime",
        "refuses",
        "specifies profile field which is only supported for TensorRT models",
    ),
    Case(
        "an accelerator of a GPU on the CPU",
        accelerators(gpu=["tensorrt"]),
        "accelerators ['tensorrt'] need a GPU, and instance_group.kind is cpu",
        "takes",
    ),
    Case(
        "an accelerator twice",
        accelerators(cpu=["openvino", "openvino"]),
        "accelerators has openvino twice",
        "takes",
    ),
    Case(
        "a resource twice",
        resources({"name": "cores", "count": 1}, {"name": "cores", "count": 2}),
        "rate_limiter.resources has cores more than once",
        "takes",
    ),
    Case(
        "a resource without a count",
        resources({"name": "cores"}),
        "each of rate_limiter.resources needs a name and a count of at least 1",
        "takes",
    ),
    Case(
        "a resource without a name",
        resources({"count": 1}),
        "each of rate_limiter.resources needs a name and a count of at least 1",
        "refuses",
        'Resource count for "" is limited to 0',
    ),
    Case(
        "sequences",
        lambda config: config.sequence_batching.SetInParent(),
        "sequence_batching is not released: a canary would split a sequence between two versions",
        "takes",
    ),
    Case(
        "sequences, cached",
        adding(response_cache={"enable": True}, sequence_batching={}),
        "sequence_batching is not released",
        "refuses",
        "Response Cache does not currently support model line with sequence batching",
    ),
    Case(
        "streams, cached",
        adding(response_cache={"enable": True}, model_transaction_policy={"decoupled": True}),
        "decoupled models are not released",
        "refuses",
        "with 'decoupled' transaction policy. Please disable the response cache",
    ),
    Case(
        "metrics of no family",
        adding(model_metrics={"metric_control": [{"histogram_options": {"buckets": [1]}}]}),
        "each metric_control of model_metrics needs a metric_identifier with a family",
        "refuses",
        'has no field named "model_metrics"',
    ),
    Case(
        "metrics without buckets",
        adding(model_metrics={"metric_control": [METRIC]}),
        "each metric_control of model_metrics needs histogram_options with buckets",
        "refuses",
        'has no field named "model_metrics"',
    ),
    Case(
        "a resource that is global and of a device",
        resources({"name": "cores", "count": 1}, {"name": "cores", "count": 1, "global": True}),
        "rate_limiter.resources has cores more than once",
        "refuses all from then on",
        'Resource "cores" is present as both global and device-specific resource in the model configuration',
    ),
    Case(
        "a warm-up above the largest batch",
        warm_up_16,
        "warm-ups of the batch sizes [16] are above max_batch_size, 8",
        "refuses or ends",
    ),
]

"""The sections of a ModelConfig, each filled from its part of the spec."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model_release.spec import Axis, ModelSpec, Serving, Tensor
from model_release.spec.serving import Accelerator, InstanceGroup, QueuePolicy
from model_release.triton.onnxruntime import ON_GPU

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
    "string": "TYPE_STRING",
}
KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO"}
_ACTIONS = {"reject": "REJECT", "delay": "DELAY"}


def numpy_dtype(data_type: int) -> str | None:
    """Return the name of a config's data_type in numpy; None for text."""
    from tritonclient.grpc import model_config_pb2 as pb

    name = pb.DataType.Name(data_type)
    return next((dtype for dtype, triton in _TRITON_TYPES.items() if triton == name != "TYPE_STRING"), None)


def describe(entry: Any, tensor: Tensor, batching: bool) -> None:
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


def instances(entry: Any, group: InstanceGroup, count: int) -> None:
    """Fill a ModelInstanceGroup; `count` is the tuning's."""
    from tritonclient.grpc import model_config_pb2 as pb

    entry.kind = pb.ModelInstanceGroup.Kind.Value(KINDS[group.kind])
    entry.count = count
    entry.gpus.extend(group.gpus)
    if group.rate_limiter is not None:
        entry.rate_limiter.SetInParent()
        entry.rate_limiter.priority = group.rate_limiter.priority
        for resource in group.rate_limiter.resources:
            entry.rate_limiter.resources.add(
                **{"name": resource.name, "count": resource.count, "global": resource.shared}
            )


def batch(entry: Any, serving: Serving) -> None:
    """Fill a ModelDynamicBatching, but for what the benchmark searches."""
    entry.SetInParent()
    entry.preserve_ordering = serving.dynamic_batching.preserve_ordering
    queue = serving.queue
    if queue is not None:
        _limit(entry.default_queue_policy, queue)
        entry.priority_levels = queue.priority_levels
        entry.default_priority_level = queue.default_priority_level
        for level, policy in queue.priorities.items():
            _limit(entry.priority_queue_policy[level], policy)


def _limit(entry: Any, policy: QueuePolicy) -> None:
    """Fill a ModelQueuePolicy; Triton's 0 is without a limit."""
    from tritonclient.grpc import model_config_pb2 as pb

    entry.SetInParent()
    entry.timeout_action = pb.ModelQueuePolicy.TimeoutAction.Value(_ACTIONS[policy.timeout_action])
    entry.default_timeout_microseconds = (policy.timeout_ms or 0) * _MICROSECONDS
    entry.allow_timeout_override = policy.allow_timeout_override
    entry.max_queue_size = policy.max_size or 0


def accelerate(config: Any, accelerators: Iterable[Accelerator]) -> None:
    """Name the execution providers, in the spec's order: the first takes what it can, the next what is left."""
    for accelerator in accelerators:
        lists = config.optimization.execution_accelerators
        on_gpu = accelerator.name in ON_GPU
        entry = (lists.gpu_execution_accelerator if on_gpu else lists.cpu_execution_accelerator).add()
        entry.name = accelerator.name
        for name, value in accelerator.parameters.items():
            entry.parameters[name] = value


def warmup_sizes(max_batch_size: int, preferred: Iterable[int] = ()) -> list[int]:
    """
    Return the batch sizes that a replica runs once before it is READY, rising.

    The benchmark sends single samples, at several concurrencies: a batch of any size up to the largest may form, there
    and later. The powers of two, the preferred sizes and the largest stand for all, since what an engine or a memory
    arena prepares for a size mostly serves the sizes near below; all of them would be up to `max_batch_size` runs.
    """
    most = max(max_batch_size, 1)
    powers = {1 << exponent for exponent in range(most.bit_length())}
    return sorted({*powers, *preferred, most})


def warm_up(entry: Any, spec: ModelSpec, batch_size: int) -> None:
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

"""
What Triton's schema does not check of a ModelConfig, and Triton does: so that nothing is uploaded for it to refuse.

A control call answers most of these with "failed to poll from model repository" alone; the reason is in the server's
log. The rules mirror ValidateModelConfig and ValidateInstanceGroup of core's model_config_utils.cc and rate_limiter.cc;
some are ours, for what Triton takes and then passes over, or does not survive. tests/sandbox/test_config_rules.py shows
each of them to the real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def broken(config: ModelConfig) -> list[str]:
    """Say each rule that a config breaks; empty when Triton may have it."""
    return [sentence for rule in _RULES for sentence in rule(config)]


def _preferred_sizes(config: ModelConfig) -> Iterator[str]:
    sizes = config.dynamic_batching.preferred_batch_size
    too_big = [size for size in sizes if not 1 <= size <= config.max_batch_size]
    if too_big:
        yield f"preferred_batch_size {too_big} must be within 1 and {config.max_batch_size}"


def _priorities(config: ModelConfig) -> Iterator[str]:
    batching = config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if not levels:
        if default or batching.priority_queue_policy:
            yield "default_priority_level and priorities need priority_levels, without which Triton passes over them"
        return
    if not 1 <= default <= levels:
        yield f"default_priority_level must be within 1 and priority_levels, {levels}; it is {default}"
    beyond = sorted(level for level in batching.priority_queue_policy if not 1 <= level <= levels)
    if beyond:
        yield f"priorities are for levels within 1 and priority_levels, {levels}; there are policies for {beyond}"


def _ordering(config: ModelConfig) -> Iterator[str]:
    """Requests that overtake others, or wait behind them, do not come back in their order."""
    batching = config.dynamic_batching
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        yield f"preserve_ordering allows one priority level, there are {batching.priority_levels}"
    if any(_delays(policy) for _, policy in _policies(batching)):
        yield "preserve_ordering and timeout_action: delay exclude each other; reject what waited too long"


def _without_timeout(config: ModelConfig) -> Iterator[str]:
    """A request's own timeout can but shorten the policy's (PolicyQueue::Enqueue in core's scheduler_utils.cc)."""
    for where, policy in _policies(config.dynamic_batching):
        asked = {
            "timeout_action: delay": policy.timeout_action,
            "allow_timeout_override": policy.allow_timeout_override,
        }
        for name in [name for name, value in asked.items() if value and not policy.default_timeout_microseconds]:
            yield f"{name} of {where} has no effect without a timeout; set timeout_ms"


def _policies(batching: Any) -> Iterator[tuple[str, Any]]:
    yield "the queue", batching.default_queue_policy
    for level, policy in sorted(batching.priority_queue_policy.items()):
        yield f"priority {level}", policy


def _delays(policy: Any) -> bool:
    """REJECT is 0, DELAY is 1, and a policy without a timeout never acts."""
    return bool(policy.timeout_action and policy.default_timeout_microseconds)


def _gpus(config: ModelConfig) -> Iterator[str]:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup as Group

    for group in config.instance_group:
        gpus = list(group.gpus)
        if gpus and group.kind != Group.KIND_GPU:
            kind = Group.Kind.Name(group.kind).removeprefix("KIND_").lower()
            yield f"instance_group.gpus {gpus} needs kind: gpu; with {kind} a replica on a CPU refuses the model"
        if len(set(gpus)) != len(gpus):
            yield f"instance_group.gpus {gpus} names a GPU twice; raise count for more instances on it"
        if group.profile and config.backend != "tensorrt":
            yield f"instance_group.profile is for the backend tensorrt, this is {config.backend}"


def _accelerators(config: ModelConfig) -> Iterator[str]:
    """The backend passes over an accelerator of the other kind of device, and the model is served without it."""
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup as Group

    lists = config.optimization.execution_accelerators
    gpu = [entry.name for entry in lists.gpu_execution_accelerator]
    cpu = [entry.name for entry in lists.cpu_execution_accelerator]
    for name in sorted({name for name in gpu + cpu if (gpu + cpu).count(name) > 1}):
        yield f"accelerators has {name} twice"
    if (gpu or cpu) and config.backend != "onnxruntime":
        yield f"accelerators are for the backend onnxruntime, this is {config.backend}"
    for group in config.instance_group:
        if gpu and group.kind == Group.KIND_CPU:
            yield f"accelerators {gpu} need a GPU, and instance_group.kind is cpu"
        if cpu and group.kind == Group.KIND_GPU:
            yield f"accelerators {cpu} are for a CPU, and instance_group.kind is gpu"


def _resources(config: ModelConfig) -> Iterator[str]:
    """
    Hold a rate limiter to resources that can be had.

    A resource that is both global and of a device is worse than refused: the server keeps what it found, and then
    refuses every model that it is asked to load, until it is started again (seen with 2.51).
    """
    for group in config.instance_group:
        resources = group.rate_limiter.resources
        names = [resource.name for resource in resources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield f"rate_limiter.resources has {', '.join(twice)} more than once; one entry says how many"
        if not all(resource.name and resource.count for resource in resources):
            yield "each of rate_limiter.resources needs a name and a count of at least 1"


def _warmup(config: ModelConfig) -> Iterator[str]:
    """2.51 refuses the load of such a warm-up, or ends by signal 11 in GenerateWarmupData: both were seen."""
    too_big = [entry.batch_size for entry in config.model_warmup if entry.batch_size > max(config.max_batch_size, 1)]
    if too_big:
        yield f"warm-ups of the batch sizes {too_big} are above max_batch_size, {config.max_batch_size}"


def _one_answer_a_request(config: ModelConfig) -> Iterator[str]:
    if config.HasField("sequence_batching"):
        yield "sequence_batching is not released: a canary would split a sequence between two versions"
    if config.model_transaction_policy.decoupled:
        yield "decoupled models are not released: a canary judges one answer a request, and would cut their streams"


def _metrics(config: ModelConfig) -> Iterator[str]:
    """ValidateModelMetrics; 2.51 does not know the field yet, and refuses any config that has it."""
    for control in config.model_metrics.metric_control:
        if not control.metric_identifier.family:
            yield "each metric_control of model_metrics needs a metric_identifier with a family"
        if not control.histogram_options.buckets:
            yield "each metric_control of model_metrics needs histogram_options with buckets"


_RULES: tuple[Callable[[ModelConfig], Iterator[str]], ...] = (
    _preferred_sizes,
    _priorities,
    _ordering,
    _without_timeout,
    _gpus,
    _accelerators,
    _resources,
    _warmup,
    _one_answer_a_request,
    _metrics,
)

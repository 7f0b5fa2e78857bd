"""`serving` and `benchmark`: how Triton serves the model, and what is measured before it does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from model_release.spec.ensemble import Ensemble
from model_release.spec.section import Section

#: The file that each backend serves.
_MODEL_FILES = {"onnxruntime": "model.onnx", "pytorch": "model.pt", "tensorrt": "model.plan"}
#: What Triton's schema has, and a release does not: the key, and why.
_NOT_RELEASED = {
    "sequence_batching": "a canary sends each request to either version, so a sequence would lose its state on the way",
    "decoupled": "a canary judges one answer a request, and would cut streams when it moves the traffic",
    "model_transaction_policy": "its one field, decoupled, is for streams, which a canary would cut",
}

#: What of `serving` an ensemble has itself.
_OF_ENSEMBLE = ("fleet_pair", "max_batch_size", "ensemble")


def _as_text(value: Any) -> Any:
    """Take 2 and true for "2" and "1": Triton's parameters are text, YAML's values are not."""
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int) else value


Options = dict[str, Annotated[str, BeforeValidator(_as_text)]]


class Resource(Section):
    """What an instance has to hold while it runs; `shared` is one pool for the whole server, else one a device."""

    name: Annotated[str, StringConstraints(min_length=1)]
    count: Annotated[int, Field(ge=1)] = 1
    shared: bool = False


class RateLimiter(Section):
    """
    Triton's rate_limiter; without --rate-limit=execution_count the server passes over it in silence.

    An instance of priority 2 runs half as often as one of priority 1; 0 is 1.
    """

    resources: list[Resource] = []
    priority: Annotated[int, Field(ge=0)] = 0


class InstanceGroup(Section):
    """Triton's instance_group: where a replica runs the model, how many times, on which GPUs (all without a list)."""

    kind: Literal["cpu", "gpu", "auto"] = "auto"
    count: Annotated[int, Field(ge=1)] = 1
    gpus: list[Annotated[int, Field(ge=0)]] = []
    rate_limiter: RateLimiter | None = None


class DynamicBatching(Section):
    """Triton's dynamic_batching."""

    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 2000
    preferred_batch_size: list[Annotated[int, Field(ge=1)]] = []
    preserve_ordering: bool = False


class QueuePolicy(Section):
    """
    Triton's ModelQueuePolicy: how many may wait, for how long, and what happens then; null is without a limit.

    `timeout_action: delay` keeps a request that waited too long, behind all others, in place of rejecting it.
    """

    max_size: Annotated[int, Field(ge=1)] | None = 512
    timeout_ms: Annotated[int, Field(ge=1)] | None = 1000
    timeout_action: Literal["reject", "delay"] = "reject"
    allow_timeout_override: bool = False


class Queue(QueuePolicy):
    """
    The limits of Triton's queue; past them a request is rejected, not kept for ever.

    Not set by default: with limits, Triton 2.51 at times leaves a request waiting for 500 ms
    (triton-inference-server/server#8870). Set them on a release that has the fix, and benchmark.

    With `priority_levels` a request may name its level, 1 first; one that names none has `default_priority_level`. A
    level that is not in `priorities` has the limits of the queue.
    """

    priority_levels: Annotated[int, Field(ge=0, le=255)] = 0
    default_priority_level: Annotated[int, Field(ge=0)] = 0
    priorities: dict[Annotated[int, Field(ge=1)], QueuePolicy] = {}


class Accelerator(Section):
    """An execution provider of ONNX Runtime before its own: TensorRT or CUDA with options, or OpenVINO."""

    name: Literal["tensorrt", "cuda", "openvino"]
    parameters: Options = {}


class Serving(Section):
    """
    How Triton serves the model; docs/config.md says what each field becomes.

    `max_batch_size: 0` switches batching off, for a model whose answers depend on the whole batch: each request is run
    by itself, and the first axis of its tensors is the client's own batch.
    """

    backend: Literal["onnxruntime", "pytorch", "tensorrt"] = "onnxruntime"
    fleet_pair: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = "default"
    max_batch_size: Annotated[int, Field(ge=0)] = 64
    instance_group: InstanceGroup = InstanceGroup()
    dynamic_batching: DynamicBatching = DynamicBatching()
    queue: Queue | None = None
    warmup: bool = True
    response_cache: bool = False
    parameters: Options = {}
    accelerators: list[Accelerator] = []
    raw: dict[str, Any] = {}
    """Any further field of Triton's ModelConfig, as JSON; `triton/raw.py` says which."""
    ensemble: Ensemble | None = None

    @property
    def model_file(self) -> str:
        """The file of a version that Triton's backend opens."""
        return _MODEL_FILES[self.backend]

    @property
    def is_engine(self) -> bool:
        """Whether what is served is built of the exported file, once that is proved."""
        return self.backend == "tensorrt"

    @property
    def exported_file(self) -> str:
        """The file that `export` makes and `validate` proves."""
        return _MODEL_FILES["onnxruntime" if self.is_engine else self.backend]

    @property
    def batching(self) -> bool:
        """Whether Triton may put the requests of several clients into one batch."""
        return self.max_batch_size > 0

    @model_validator(mode="before")
    @classmethod
    def _what_a_canary_cannot_release(cls, given: Any) -> Any:
        for key in sorted(_NOT_RELEASED.keys() & (given.keys() if isinstance(given, dict) else ())):
            message = f"{key} is not released: {_NOT_RELEASED[key]}"
            raise ValueError(message)
        return given

    @model_validator(mode="after")
    def _parts_have_their_own(self) -> Serving:
        """An ensemble in Triton has no queue and no instances; they are its parts'."""
        if self.ensemble is None:
            return self
        usual = type(self).model_fields
        foreign = [
            name
            for name in usual
            if name not in _OF_ENSEMBLE and getattr(self, name) != usual[name].get_default(call_default_factory=True)
        ]
        if foreign:
            message = f"{', '.join(foreign)} of an ensemble have no meaning in Triton: set them in the config of a part"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _an_engine_has_its_gpu_and_its_batches(self) -> Serving:
        if not self.is_engine:
            return self
        if self.instance_group.kind != "gpu":
            message = f"backend tensorrt needs instance_group.kind: gpu, this is {self.instance_group.kind}"
            raise ValueError(message)
        if not self.batching:
            message = "backend tensorrt needs max_batch_size of 1 or more: an engine is built for a range of batches"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _preferred_sizes_fit(self) -> Serving:
        if not self.batching:
            asked = {
                "dynamic_batching.preferred_batch_size": self.dynamic_batching.preferred_batch_size,
                "dynamic_batching.preserve_ordering": self.dynamic_batching.preserve_ordering,
            }
            for name, value in {**asked, "queue": self.queue}.items():
                if value:
                    message = f"{name} needs batching, which max_batch_size: 0 switches off; remove it"
                    raise ValueError(message)
        for size in self.dynamic_batching.preferred_batch_size:
            if size > self.max_batch_size:
                message = f"preferred_batch_size {size} is above max_batch_size {self.max_batch_size}"
                raise ValueError(message)
        return self


class LatencyObjective(Section):
    """An absolute bound on the 99th percentile."""

    p99_ms: Annotated[float, Field(gt=0)]


class BenchmarkSearch(Section):
    """
    The values that are tried on bench, each with each; what is left empty stays as `serving` says.

    A request of more samples than `max_batch_size` is refused: list none below what clients send at once.
    """

    max_queue_delay_microseconds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 500, 2000]
    instance_count: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1]
    preferred_batch_size: list[list[Annotated[int, Field(ge=1)]]] = []
    max_batch_size: list[Annotated[int, Field(ge=1)]] = []
    intra_op_thread_count: list[Annotated[int, Field(ge=0)]] = []
    """ONNX Runtime's threads of an instance; 0 is one a core."""


class Benchmark(Section):
    """
    What is measured on bench before any fleet is touched.

    `budget_s` bounds the search, which ends earlier when more repeats could not change the choice. The comparison with
    stable's version may take half as long again.
    """

    objective: LatencyObjective = LatencyObjective(p99_ms=50)
    concurrency: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)] = [1, 8, 32]
    search: BenchmarkSearch = BenchmarkSearch()
    budget_s: Annotated[float, Field(gt=0)] = 120
    max_slowdown: Annotated[float, Field(gt=1)] = 1.2

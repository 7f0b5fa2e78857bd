"""`serving` and `benchmark`: how Triton serves the model, and what is measured before it does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from model_release.spec.section import Section


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
    """
    How Triton serves the model.

    `max_batch_size: 0` switches batching off, for a model whose answers depend on the whole batch: each request is run
    by itself, and the first axis of its tensors is the client's own batch.
    """

    backend: Literal["onnxruntime"] = "onnxruntime"
    fleet_pair: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = "default"
    max_batch_size: Annotated[int, Field(ge=0)] = 64
    instance_group: InstanceGroup = InstanceGroup()
    dynamic_batching: DynamicBatching = DynamicBatching()
    queue: Queue | None = None
    warmup: bool = True
    parameters: dict[str, str] = {}

    @property
    def batching(self) -> bool:
        """Whether Triton may put the requests of several clients into one batch."""
        return self.max_batch_size > 0

    @model_validator(mode="after")
    def _preferred_sizes_fit(self) -> Serving:
        if not self.batching:
            asked = {"dynamic_batching.preferred_batch_size": self.dynamic_batching.preferred_batch_size}
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

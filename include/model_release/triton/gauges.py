"""What a replica's metrics port says of its machine: memory, and the GPUs where there are some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.request import urlopen

from model_release.environment import Replica

_TIMEOUT_S = 2.0
_GPU = "gpu_uuid"


@dataclass(frozen=True)
class Gpu:
    """One GPU at one instant; `utilization` is from 0 to 1, and Triton reads it anew every second or two."""

    utilization: float
    memory_used_bytes: float
    memory_total_bytes: float


@dataclass(frozen=True)
class Gauges:
    """A machine at one instant; what the server does not tell is None, and without GPUs there are none."""

    memory_used_bytes: float | None
    memory_total_bytes: float | None
    gpus: dict[str, Gpu]


def read(replica: Replica) -> Gauges | None:
    """Return what the metrics port tells, or None when it does not answer."""
    try:
        with urlopen(f"http://{replica.metrics}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (OSError, ValueError):
        return None
    return parse(text)


def parse(text: str) -> Gauges:
    """Read Triton's exposition."""
    values = {(name, gpu): value for name, gpu, value in _samples(text)}
    uuids = {gpu for name, gpu in values if name == "nv_gpu_memory_total_bytes" and gpu}
    return Gauges(
        values.get(("nv_cpu_memory_used_bytes", "")),
        values.get(("nv_cpu_memory_total_bytes", "")),
        {uuid: Gpu(*(values.get((f"nv_gpu_{name}", uuid), 0.0) for name in _OF_GPU)) for uuid in sorted(uuids)},
    )


_OF_GPU = ("utilization", "memory_used_bytes", "memory_total_bytes")


def _samples(text: str) -> Iterator[tuple[str, str, float]]:
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels.get(_GPU, ""), sample.value

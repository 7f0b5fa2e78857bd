"""
How much memory a version takes on a server, and whether a replica has that much left beside what it serves.

Of a server on this machine it is what its processes hold (PSS, so that shared pages count once); of another it is what
its metrics port says of the whole machine, and of each GPU in any case. A container's own limit is seen by neither.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psutil

from model_release.environment import Replica
from model_release.triton import gauges

#: What is measured is not what a load takes at its worst moment elsewhere.
HEADROOM = 1.1
_EVERY_S = 0.25


@dataclass(frozen=True)
class Held:
    """Bytes by place: `host`, and each GPU by its UUID."""

    bytes_by_place: dict[str, float]

    def over(self, other: Held) -> dict[str, float]:
        """Return by how much more is held here than there, where both know it."""
        both = self.bytes_by_place.keys() & other.bytes_by_place.keys()
        return {place: max(0.0, self.bytes_by_place[place] - other.bytes_by_place[place]) for place in sorted(both)}


class Watch:
    """The memory of one server: before a version came, what it holds since, and its peak."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._process = _server(replica)
        self._before = self._peak = self._read()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def held(self) -> dict[str, float]:
        """Return how many bytes more are held now than before, by place."""
        return self._read().over(self._before)

    def peak(self) -> dict[str, float]:
        """Return the most bytes that were held at once since, by place."""
        return self._peak.over(self._before)

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            now = self._read().bytes_by_place
            peak = self._peak.bytes_by_place
            self._peak = Held({place: max(value, peak.get(place, value)) for place, value in now.items()} or peak)

    def _read(self) -> Held:
        seen = gauges.read(self._replica)
        places = {} if seen is None else {uuid: gpu.memory_used_bytes for uuid, gpu in seen.gpus.items()}
        own = _pss(self._process)
        if own is None and self._process is None and seen is not None:
            own = seen.memory_used_bytes
        return Held(places if own is None else {"host": own, **places})


@dataclass(frozen=True)
class Fit:
    """Whether a version fits beside what each replica serves: None where its memory is not known."""

    needed_bytes: dict[str, float]
    replicas: list[dict[str, Any]] = field(default_factory=list)

    @property
    def misfits(self) -> list[dict[str, Any]]:
        """The replicas where it does not fit."""
        return [replica for replica in self.replicas if replica["fits"] is False]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"needed_bytes": self.needed_bytes, "replicas": self.replicas}


def fit(needed_bytes: dict[str, float], replicas: Sequence[Replica]) -> Fit:
    """Hold what a version needs by place against what is free on replicas, on the GPU that has the most left."""
    on_gpu = max((value for place, value in needed_bytes.items() if place != "host"), default=None)
    found = []
    for replica in replicas:
        free = _free(replica)
        pairs = [(needed_bytes.get("host"), free.get("host"))]
        if on_gpu is not None:
            pairs.append((on_gpu, max((value for place, value in free.items() if place != "host"), default=None)))
        known = [(needed, left) for needed, left in pairs if needed is not None and left is not None]
        fits = all(needed * HEADROOM <= left for needed, left in known) if known else None
        found.append({"replica": replica.name, "free_bytes": free, "fits": fits})
    return Fit(needed_bytes, found)


def _free(replica: Replica) -> dict[str, float]:
    seen = gauges.read(replica)
    free: dict[str, float] = {}
    if _is_here(replica):
        free["host"] = float(psutil.virtual_memory().available)
    elif seen is not None and seen.memory_total_bytes is not None and seen.memory_used_bytes is not None:
        free["host"] = seen.memory_total_bytes - seen.memory_used_bytes
    for uuid, gpu in seen.gpus.items() if seen is not None else ():
        free[uuid] = gpu.memory_total_bytes - gpu.memory_used_bytes
    return free


def _is_here(replica: Replica) -> bool:
    host = replica.grpc.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server(replica: Replica) -> psutil.Process | None:
    """Return the process of a server on this machine, if it may be seen."""
    if not _is_here(replica):
        return None
    port = int(replica.grpc.rpartition(":")[2])
    try:
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pids = [each.pid for each in listening if each.laddr and each.laddr.port == port and each.pid]
        return psutil.Process(pids[0]) if pids else None
    except psutil.Error:
        return None


def _pss(process: psutil.Process | None) -> float | None:
    """Return what a process and its children hold; those that end meanwhile count as nothing."""
    if process is None:
        return None
    total = None
    try:
        for each in (process, *process.children(recursive=True)):
            try:
                total = (total or 0.0) + float(each.memory_full_info().pss)
            except psutil.Error:
                continue
    except psutil.Error:
        return total
    return total

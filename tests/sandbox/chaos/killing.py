"""
A step in a process of its own that kills itself, with SIGKILL, just before a chosen one of its changes.

A change is an I/O that is not a read. A read leaves the world as it was: a step that is killed before or after one
leaves what one leaves that is killed before its next change. Before the first change, between two and after the last
are all the instants that the world outside can tell apart. What connects without passing a port is found by Python's
audit hook: it would be an instant that nobody tries.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from multiprocessing.connection import Connection
from typing import Any

from botocore.client import BaseClient

from model_release.benchmark import perf_analyzer
from model_release.repository.store import ObjectStore
from model_release.traffic import envoy
from model_release.traffic.envoy_admin import EnvoyAdmin
from model_release.triton import gauges
from model_release.triton.replica import ReplicaClient
from tests.sandbox.forking import STEP_S, forked, received

#: Where a step's I/O passes: S3, the router's files and its admin, the replicas, the load generator, the metrics port.
PORTS: list[tuple[Any, str]] = [
    (BaseClient, "_make_api_call"),
    (envoy, "_replace"),
    (EnvoyAdmin, "_get"),
    (ReplicaClient, "_call"),
    (perf_analyzer, "_execute"),
    (gauges, "read"),
]
#: Of S3, of the router's admin, of the replicas and their metrics; whatever is not named is taken for a change. HEAD of
#: the bucket is how the clock is read, and an inference moves only counters.
READS = {
    "GetObject", "HeadObject", "HeadBucket", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "_get",
    "is_server_live", "is_model_ready", "get_model_repository_index", "get_model_config", "get_inference_statistics",
    "infer", "read",
}  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """How a try of a step went: killed, or with an error, or well; and its I/Os and its changes, in order."""

    killed: bool
    ios: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    error: str | None = None
    sentence: str = ""
    result: Any = None
    bypasses: list[str] = field(default_factory=list)


def attempt(
    work: Callable[[], Any], *, kill_at: int | None = None, ahead_s: float = 0, within_s: float = STEP_S
) -> Attempt:
    """
    Run a step; with `kill_at` it dies before that change (counted from 0), or after its last if it makes just as many.

    `ahead_s` moves the store's clock: what a guard sees that comes so much later. `within_s` is how long it may take.
    """
    with forked(_run, work, kill_at, ahead_s) as (process, pipe):
        try:
            told = received(pipe, work, within_s)
        except EOFError:
            process.join()
            assert process.exitcode == -signal.SIGKILL, f"it died of {process.exitcode}"
            return Attempt(killed=True)
    assert isinstance(told, Attempt)
    assert told.bypasses == [], f"I/O that passes no port: {told.bypasses}"
    return told


# --- in the step's process -----------------------------------------------------------------------


def _run(work: Callable[[], Any], kill_at: int | None, ahead_s: float, pipe: Connection) -> None:
    now = ObjectStore.now
    ObjectStore.now = lambda self: now(self) + timedelta(seconds=ahead_s)  # type: ignore[method-assign]
    watch = _Watch(kill_at)
    watch.install()
    error, sentence, result = None, "", None
    try:
        result = work()
        watch.die_if_due()
    except Exception as raised:
        error, sentence = type(raised).__name__, str(raised)
    pipe.send(Attempt(False, watch.ios, watch.changes, error, sentence, result, watch.bypasses))


class _Watch:
    """Counts what passes the ports, kills at the chosen one, and notes what passes beside them."""

    def __init__(self, kill_at: int | None) -> None:
        self.ios: list[str] = []
        self.changes: list[str] = []
        self.bypasses: list[str] = []
        self._kill_at = kill_at
        self._inside = threading.local()

    def install(self) -> None:
        for owner, name in PORTS:
            setattr(owner, name, self._counted(getattr(owner, name), name))
        sys.addaudithook(self._audit)

    def die_if_due(self) -> None:
        if len(self.changes) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, io: str) -> None:
        if io not in READS:
            self.die_if_due()
            self.changes.append(io)
        self.ios.append(io)

    def _counted(self, port: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(port)
        def counted(*given: Any, **named: Any) -> Any:
            depth = getattr(self._inside, "depth", 0)
            if depth == 0:
                self._note(_asked_of(name, given))
            self._inside.depth = depth + 1
            try:
                return port(*given, **named)
            finally:
                self._inside.depth = depth

        return counted

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and os.fspath(arguments[0]).endswith("/ldconfig"):
            return  # ctypes asks it where a library lies: torch's CUDA build does so, by itself
        if event in ("socket.connect", "subprocess.Popen") and not getattr(self._inside, "depth", 0):
            self.bypasses.append(f"{event} {arguments[1:]}")


def _asked_of(port: str, given: tuple[Any, ...]) -> str:
    """Return what is asked of a port: S3's operation, the client's method that a replica's call is for."""
    if port == "_make_api_call":
        return str(given[1])
    if port == "_call":
        return str(given[1].__code__.co_names[0])
    return port

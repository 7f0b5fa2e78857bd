"""
Steps in processes of their own that stop themselves, with SIGSTOP, just before a chosen one of their I/Os.

    points = points_of(partial(shift.run, release, environment, 10))        # runs it, and lists its writes and checks
    with stopped(partial(shift.run, release, environment, 10), points[3]) as zombie:
        ...                                                                 # somebody else takes the claim
        ended = zombie.wake()                                               # SIGCONT, and how the step ended

A point is a write (S3, the route, a replica's load or unload) or a check: the read of state.json by which a step finds
out that it is superseded. They are caught below the library's own classes, in botocore, in Triton's client and where a
router is told its route, so a new write is found wherever it is made. A process is forked from one that has imported
everything already; it stops in the thread that does the I/O, after all that the step itself does before it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from botocore.client import BaseClient
from tritonclient.grpc import InferenceServerClient

from model_release.traffic.envoy import EnvoyRouter
from model_release.traffic.router import Route
from tests.sandbox.forking import forked, received
from tests.sandbox.releasing import await_true

_READS = ("Get", "Head", "List")
CHECK = "check"
#: What the key of an event has in front: another number in every run of a step.
_OF_AN_EPOCH = re.compile(r"\d{8}-\d{6}-")


@dataclass(frozen=True)
class Point:
    """The `number`th I/O of its kind on its target: `check`, `route`, `load`, `unload`, or S3's operation."""

    kind: str
    target: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.target} ({self.number})"

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.kind != CHECK


@dataclass(frozen=True)
class Ended:
    """How a step ended: the name of its error, or None, its sentence, and every point that it passed."""

    error: str | None
    sentence: str
    points: list[Point]


class Zombie:
    """A step's process that stands before a point."""

    def __init__(self, process: Any, pipe: Connection, point: Point) -> None:
        self.pid = int(process.pid)
        self._process, self._pipe, self._point = process, pipe, point

    def await_stop(self) -> None:
        """Wait until it has stopped itself."""
        told = received(self._pipe, self._point)
        assert told == self._point, f"it never came to {self._point}: {told}"
        await_true(self._is_stopped, f"it stops before {self._point}")

    def wake(self) -> Ended:
        """Let it go on, and wait for its end."""
        os.kill(self.pid, signal.SIGCONT)
        told = received(self._pipe, self._point)
        assert isinstance(told, Ended), told
        return told

    def _is_stopped(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def points_of(work: Callable[[], Any]) -> list[Point]:
    """Run a step to its good end in a process of its own, and list the points that it passed, in order."""
    with forked(_run, work, None) as (_, pipe):
        ended = received(pipe, work)
    assert isinstance(ended, Ended)
    assert ended.error is None, ended.sentence
    return ended.points


@contextmanager
def stopped(work: Callable[[], Any], point: Point) -> Iterator[Zombie]:
    """Run a step up to a point, where it stops itself; it is killed if it is not woken."""
    with forked(_run, work, point) as (process, pipe):
        zombie = Zombie(process, pipe, point)
        zombie.await_stop()
        yield zombie


# --- in the step's process -----------------------------------------------------------------------


def _run(work: Callable[[], Any], point: Point | None, pipe: Connection) -> None:
    passed: list[Point] = []

    def before(kind: str, target: str) -> None:
        target = _OF_AN_EPOCH.sub("", target)
        here = Point(kind, target, sum((each.kind, each.target) == (kind, target) for each in passed))
        passed.append(here)
        if here == point:
            pipe.send(here)
            # To this thread alone, so that it is stopped before the call returns.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    _watch(before)
    try:
        work()
    except Exception as error:
        pipe.send(Ended(type(error).__name__, str(error), passed))
    else:
        pipe.send(Ended(None, "", passed))


def _watch(before: Callable[[str, str], None]) -> None:
    """Call `before(kind, target)` ahead of every write and of every read of state.json."""
    call, set_route = BaseClient._make_api_call, EnvoyRouter.set
    load, unload = InferenceServerClient.load_model, InferenceServerClient.unload_model

    def called(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        key = str(arguments.get("Key", ""))
        if not operation.startswith(_READS):
            before(operation, key)
        elif operation == "GetObject" and key.endswith("/state.json"):
            before(CHECK, key)
        return call(self, operation, arguments)

    def route_set(self: EnvoyRouter, route: Route) -> None:
        before("route", route.model)
        set_route(self, route)

    def loaded(self: InferenceServerClient, model: str, *rest: Any, **named: Any) -> Any:
        before("load", model)
        return load(self, model, *rest, **named)

    def unloaded(self: InferenceServerClient, model: str, *rest: Any, **named: Any) -> Any:
        before("unload", model)
        return unload(self, model, *rest, **named)

    BaseClient._make_api_call = called
    EnvoyRouter.set = route_set  # type: ignore[method-assign]
    InferenceServerClient.load_model, InferenceServerClient.unload_model = loaded, unloaded

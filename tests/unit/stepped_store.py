"""A store in memory, and tasks that stop before each of their I/Os until the test says how that I/O goes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from model_release.errors import StoreUnavailable
from model_release.repository.store import ConditionFailed, KeyAbsent, StoredObject

_WAIT_S = 30


class Fate(Enum):
    """How one I/O goes; what is only of writes lets a read go well."""

    WELL = "well"
    """It is done and answered."""
    UNSENT = "unsent"
    """It never arrives; the caller is told that the store did not answer."""
    UNANSWERED = "unanswered"
    """It is done; the caller is told that the store did not answer."""
    LOST = "lost"
    """It is done and its answer is lost, so the client's library sends it again: another I/O, in a later moment."""
    CONFLICT = "conflict"
    """A write is refused with 409 without another writer having won."""
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"


class Crashed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Task:
    """One call by one process, on a thread that runs only while the test waits for it."""

    def __init__(self, who: Any, work: Callable[[], Any]) -> None:
        self.who, self._work = who, work
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False
        self.stands_before = "its start"
        self._fate = Fate.WELL
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await_stop()

    def go_on(self, fate: Fate = Fate.WELL) -> None:
        """Let the I/O that it stands before go this way, and what follows up to the next."""
        self._fate = fate
        self._go.release()
        self._await_stop()

    def finish(self) -> None:
        """Let every I/O that is left go well."""
        while not self.over:
            self.go_on()

    def stand(self, before: str = "its start") -> Fate:
        """Wait, on the task's own thread, until the test says how the next I/O goes."""
        self.stands_before = before
        self._stopped.release()
        self._go.acquire()
        if self._fate is Fate.CRASH_BEFORE:
            raise Crashed
        return self._fate

    def _await_stop(self) -> None:
        assert self._stopped.acquire(timeout=_WAIT_S), "a task neither ended nor came to an I/O"
        if self.over:
            self._thread.join()

    def _run(self) -> None:
        _RUNNING.task = self
        try:
            self.stand()
            self.result = self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.over = True
            self._stopped.release()


_RUNNING = threading.local()


@dataclass(frozen=True)
class Written:
    """One write that took effect."""

    who: Any
    key: str
    before: bytes | None
    after: bytes
    at: datetime


class SteppedStore:
    """What the ledger uses of ObjectStore; outside of a task every I/O goes well at once."""

    def __init__(self) -> None:
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.bodies: dict[str, bytes] = {}
        self.written: list[Written] = []

    def tick(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self._read(lambda: self.clock)

    def get(self, key: str) -> tuple[bytes, str]:
        return self._read(lambda: self._got(key))

    def objects(self, prefix: str, *, after: str = "") -> list[StoredObject]:
        found = self._read(lambda: sorted(key for key in self.bodies if key.startswith(prefix) and key > after))
        return [StoredObject(key, len(self.bodies[key]), _etag(self.bodies[key]), self.clock) for key in found]

    def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        fate = _fate("a write")
        if fate is Fate.UNSENT:
            raise StoreUnavailable(key, "as told")
        if fate is Fate.CONFLICT and (if_absent or if_match):
            raise ConditionFailed(key)
        etag = self._put(key, body, if_absent, if_match)
        while fate is Fate.LOST:
            fate = _fate("a write")
            if fate is Fate.UNSENT:
                raise StoreUnavailable(key, "as told")
            etag = self._put(key, body, if_absent, if_match)
        _after(fate, key)
        return etag

    def _got(self, key: str) -> tuple[bytes, str]:
        if key not in self.bodies:
            raise KeyAbsent(key)
        return self.bodies[key], _etag(self.bodies[key])

    def _put(self, key: str, body: bytes, if_absent: bool, if_match: str | None) -> str:
        there = self.bodies.get(key)
        if (if_absent and there is not None) or (if_match and (there is None or _etag(there) != if_match)):
            raise ConditionFailed(key)
        self.bodies[key] = body
        task = getattr(_RUNNING, "task", None)
        self.written.append(Written(task.who if task else None, key, there, body, self.clock))
        return _etag(body)

    def _read(self, read: Callable[[], Any]) -> Any:
        fate = _fate("a read")
        if fate in (Fate.UNSENT, Fate.UNANSWERED):
            raise StoreUnavailable("a read", "as told")
        found = read()
        _after(Fate.WELL if fate is Fate.LOST else fate, "a read")
        return found


def _fate(before: str) -> Fate:
    task = getattr(_RUNNING, "task", None)
    return task.stand(before) if task else Fate.WELL


def _after(fate: Fate, key: str) -> None:
    if fate is Fate.CRASH_AFTER:
        raise Crashed
    if fate is Fate.UNANSWERED:
        raise StoreUnavailable(key, "as told")


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'

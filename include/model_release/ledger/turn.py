"""
One turn at a fleet: models share it, each with a claim of its own, and only one of its replicas may be down at a time.

A turn is an object by the fleet, taken by compare-and-swap, that ends by itself at a moment of the store's clock. It
remembers when each replica was recycled last.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from pydantic import BaseModel

from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

_POLL_S = 0.5


class Turn(BaseModel):
    """Whose turn it is, until when, and when each replica of the fleet was recycled last."""

    nonce: str = ""
    holder: str = ""
    until: datetime | None = None
    recycled: dict[str, datetime] = {}


class TurnTaken(Exception):
    """Another has the turn, and had it for as long as one waits."""


class Turns:
    """The turns at one fleet."""

    def __init__(self, store: ObjectStore, pair: str, fleet: str) -> None:
        self._store = store
        self._key = f"turns/{pair}/{fleet}.json"

    def last_recycled(self, replica: str) -> datetime | None:
        """Return when a replica was recycled last, or None."""
        return self._load()[0].recycled.get(replica)

    @contextmanager
    def turn(self, holder: str, replica: str, lasts_s: float, wait_s: float) -> Iterator[None]:
        """
        Have the turn for at most `lasts_s` seconds, and note that the replica was recycled when it ends in order.

        A holder that died in its turn may have it again.

        Raises TurnTaken when another has it for all of `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        while not self._take(holder, lasts_s):
            if time.monotonic() > deadline:
                raise TurnTaken(self._load()[0].holder)
            time.sleep(_POLL_S)
        recycled: dict[str, datetime] = {}
        try:
            yield
            recycled = {replica: self._store.now()}
        finally:
            turn, etag = self._load()
            if turn.holder == holder:
                self._write(Turn(recycled={**turn.recycled, **recycled}), etag)

    def _take(self, holder: str, lasts_s: float) -> bool:
        (turn, etag), now = self._load(), self._store.now()
        if turn.until is not None and turn.until > now and turn.holder != holder:
            return False
        return self._write(turn.model_copy(update={"holder": holder, "until": now + timedelta(seconds=lasts_s)}), etag)

    def _write(self, turn: Turn, etag: str | None) -> bool:
        """Write unless another was faster; a retry that met its own first try has written."""
        nonce = uuid.uuid4().hex
        body = turn.model_copy(update={"nonce": nonce}).model_dump_json().encode()
        try:
            self._store.put(self._key, body, if_absent=etag is None, if_match=etag)
        except ConditionFailed:
            return self._load()[0].nonce == nonce
        return True

    def _load(self) -> tuple[Turn, str | None]:
        try:
            body, etag = self._store.get(self._key)
        except KeyAbsent:
            return Turn(), None
        return Turn.model_validate_json(body), etag

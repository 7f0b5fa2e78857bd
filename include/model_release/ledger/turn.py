"""
Turns at what models share, each with a claim of its own.

A turn is an object of its own, taken by compare-and-swap, that ends by itself at a moment of the store's clock. At a
fleet it is to start a replica anew, since only one may be down at a time; its turn remembers when each was recycled
last. At bench it is a lease, renewed for as long as its holder lives. Each turn's token is above the last one's, so
that a holder that was paused finds out before its next write.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel

from model_release.errors import ReleaseError
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

_POLL_S = 0.5

log = logging.getLogger(__name__)


class Turn(BaseModel):
    """Whose turn it is, until when, and when each replica of the fleet was recycled last."""

    nonce: str = ""
    holder: str = ""
    until: datetime | None = None
    token: int = 0
    recycled: dict[str, datetime] = {}


class TurnTaken(Exception):
    """Another has the turn, and had it for as long as one waits."""


class TurnLost(Exception):
    """Another has the turn since: this holder gave no sign of life for as long as its lease was."""


class Turns:
    """The turns at one fleet, or at what else a pair's models share."""

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
        while self._take(holder, lasts_s) is None:
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
                self._end(turn, etag, {**turn.recycled, **recycled})

    @contextmanager
    def lease(self, holder: str, lease_s: float, wait_s: float, waits: Callable[[str], None]) -> Iterator[Lease]:
        """
        Have the turn for as long as this process lives, and `lease_s` seconds longer.

        `waits` is called with the holder while another has it, and may raise. A holder that died may have it again at
        once. Raises TurnTaken when others have it for all of `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        while (token := self._take(holder, lease_s)) is None:
            other = self._load()[0].holder
            waits(other)
            if time.monotonic() > deadline:
                raise TurnTaken(other)
            time.sleep(_POLL_S)
        lease = Lease(self, token, lease_s)
        try:
            with lease:
                yield lease
        finally:
            turn, etag = self._load()
            if turn.token == token:
                self._end(turn, etag, turn.recycled)

    def renew(self, token: int, lease_s: float) -> None:
        """Move the end of a lease. Raises TurnLost when another has the turn."""
        turn, etag = self._own(token)
        if not self._write(turn.model_copy(update={"until": self._store.now() + timedelta(seconds=lease_s)}), etag):
            self._own(token)

    def check(self, token: int) -> None:
        """Raise TurnLost when another has the turn, or had it since."""
        self._own(token)

    def _own(self, token: int) -> tuple[Turn, str | None]:
        turn, etag = self._load()
        if turn.token != token:
            raise TurnLost(turn.holder or "nobody any more")
        return turn, etag

    def _take(self, holder: str, lasts_s: float) -> int | None:
        """Return the token of the turn that was taken, or None where another has it."""
        (turn, etag), now = self._load(), self._store.now()
        if turn.until is not None and turn.until > now and turn.holder != holder:
            return None
        until = now + timedelta(seconds=lasts_s)
        taken = turn.model_copy(update={"holder": holder, "until": until, "token": turn.token + 1})
        return taken.token if self._write(taken, etag) else None

    def _end(self, turn: Turn, etag: str | None, recycled: dict[str, datetime]) -> None:
        self._write(turn.model_copy(update={"holder": "", "until": None, "recycled": recycled}), etag)

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


class Lease:
    """A turn that is renewed until the end of `with`."""

    def __init__(self, turns: Turns, token: int, lease_s: float) -> None:
        self._turns, self.token, self._lease_s = turns, token, lease_s
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_stopped, name=f"turn-{token}", daemon=True)

    def check(self) -> None:
        """Raise TurnLost when another has the turn."""
        self._turns.check(self.token)

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._lease_s / 3):
            try:
                self._turns.renew(self.token, self._lease_s)
            except TurnLost:
                return
            except ReleaseError as error:
                log.warning("a turn was not renewed: %s", error)

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._renewer.join()

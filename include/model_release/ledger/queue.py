"""
Whose canary is on a fleet pair, and who waits for it: one object a pair, changed by compare-and-swap.

An entry counts as long as its release lives, as its model's own ledger says; who died is in nobody's way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel

from model_release.errors import StoreUnavailable
from model_release.ledger.state import StateFile
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

_TRIES = 20


class Entry(BaseModel):
    """A release that has its canary on the pair, if it is the first, or waits for it."""

    model: str
    run: str
    version: int
    since: datetime


class _Record(BaseModel):
    nonce: str = ""
    entries: list[Entry] = []


class CanaryQueue:
    """The queue of one fleet pair."""

    def __init__(self, store: ObjectStore, pair: str) -> None:
        self._store = store
        self._key = f"turns/{pair}/canaries.json"

    def entries(self) -> list[Entry]:
        """Return who has the turn, first, and who waits."""
        return [entry for entry in self._load()[0].entries if self._lives(entry)]

    def join(self, model: str, run: str, version: int) -> list[Entry]:
        """Stand in the queue, where one stands already if it was joined before; returns those before, and oneself."""
        own = Entry(model=model, run=run, version=version, since=self._store.now())

        def joined(entries: list[Entry]) -> list[Entry]:
            living = [entry for entry in entries if (entry.model, entry.run) == (model, run) or self._lives(entry)]
            return living if any((entry.model, entry.run) == (model, run) for entry in living) else [*living, own]

        entries = self._change(joined)
        place = next(at for at, entry in enumerate(entries) if (entry.model, entry.run) == (model, run))
        return entries[: place + 1]

    def leave(self, model: str, run: str) -> None:
        """Leave the queue; one that never stood in it changes nothing."""
        self._change(lambda entries: [entry for entry in entries if (entry.model, entry.run) != (model, run)])

    def _lives(self, entry: Entry) -> bool:
        state = StateFile(self._store, entry.model).read()
        if state.release is None or state.claim is None or state.release.holder != entry.run:
            return False
        ends = max(filter(None, (state.claim.expires_at, state.claim.held_until)))
        return state.release.outcome == "running" and (state.canary is not None or ends > self._store.now())

    def _change(self, mutate: Callable[[list[Entry]], list[Entry]]) -> list[Entry]:
        nonce = uuid.uuid4().hex
        for _ in range(_TRIES):
            record, etag = self._load()
            if record.nonce == nonce:
                return record.entries  # a PUT whose answer was lost
            entries = mutate(record.entries)
            if entries == record.entries:
                return entries
            body = _Record(nonce=nonce, entries=entries).model_dump_json(indent=1).encode()
            try:
                self._store.put(self._key, body, if_absent=etag is None, if_match=etag)
            except ConditionFailed:
                continue
            return entries
        raise StoreUnavailable(self._key, f"other writers were faster {_TRIES} times")

    def _load(self) -> tuple[_Record, str | None]:
        try:
            body, etag = self._store.get(self._key)
        except KeyAbsent:
            return _Record(), None
        return _Record.model_validate_json(body), etag

"""
Which events were told to whom: one object a model, changed by compare-and-swap.

An event is told at least once to each connection. Who is about to tell one says so first, for as long as telling takes,
so that two processes do not tell it at once; who is killed meanwhile leaves it to the next, which may tell it again
under the same id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from pydantic import BaseModel

from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

_TRIES = 20


class Record(BaseModel):
    """`floor`: the newest event with nothing left to tell up to it. `told` and `telling` are of events beyond it."""

    nonce: str = ""
    floor: str = ""
    told: list[str] = []
    telling: dict[str, datetime] = {}


class Outbox:
    """The outbox of one model; a message is named by its event and its connection."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._key = f"ledger/{model}/outbox.json"

    def read(self) -> Record:
        """Return what was told."""
        return self._load()[0]

    def take(self, name: str, lasts_s: float) -> bool:
        """Say that one is about to tell a message; False when it was told, or another is telling it."""
        now = self._store.now()

        def taken(record: Record) -> Record | None:
            until = record.telling.get(name)
            if name in record.told or (until is not None and until > now):
                return None
            return record.model_copy(update={"telling": {**record.telling, name: now + timedelta(seconds=lasts_s)}})

        return self._change(taken)

    def settle(self, name: str, *, told: bool) -> None:
        """Say that a message was told, or that telling it failed and another may try at once."""

        def settled(record: Record) -> Record:
            telling = {key: until for key, until in record.telling.items() if key != name}
            done = [*record.told, name] if told and name not in record.told else record.told
            return record.model_copy(update={"telling": telling, "told": done})

        self._change(settled)

    def raise_floor(self, event: str) -> None:
        """Forget all up to an event, which has nothing left to tell."""

        def raised(record: Record) -> Record | None:
            if event <= record.floor:
                return None
            told = [name for name in record.told if name.partition(" ")[0] > event]
            return record.model_copy(update={"floor": event, "told": told})

        self._change(raised)

    def _change(self, mutate: Callable[[Record], Record | None]) -> bool:
        """Change the record until no one else was faster; False when there is nothing to change."""
        nonce = uuid.uuid4().hex
        for _ in range(_TRIES):
            record, etag = self._load()
            if record.nonce == nonce:
                return True  # a PUT whose answer was lost
            after = mutate(record)
            if after is None:
                return False
            body = after.model_copy(update={"nonce": nonce}).model_dump_json(indent=1).encode()
            try:
                self._store.put(self._key, body, if_absent=etag is None, if_match=etag)
            except ConditionFailed:
                continue
            return True
        return False

    def _load(self) -> tuple[Record, str | None]:
        try:
            body, etag = self._store.get(self._key)
        except KeyAbsent:
            return Record(), None
        return Record.model_validate_json(body), etag

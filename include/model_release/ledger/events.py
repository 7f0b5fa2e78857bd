"""What has happened to a model, one object an event, appended and never changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore


class Events:
    """The events of one model, in the order of their epochs."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model
        self._root = f"ledger/{model}/events/"

    def append(self, epoch: int, what: str, at: datetime, facts: Mapping[str, Any]) -> None:
        """
        Append an event under the next free number of its epoch.

        A PUT whose answer was lost and that is retried finds itself there: the nonce in the body tells.
        """
        told = {"at": at.isoformat(), "epoch": epoch, "what": what, "nonce": uuid.uuid4().hex, **facts}
        body = json.dumps(told, indent=1, default=str).encode()
        number = len(self._store.objects(f"{self._root}{epoch:08d}-"))
        while True:
            key = f"{self._root}{epoch:08d}-{number:06d}-{what}.json"
            try:
                self._store.put(key, body, if_absent=True)
            except ConditionFailed:
                if self._holds(key, body):
                    return
                number += 1
            else:
                return

    def _holds(self, key: str, body: bytes) -> bool:
        try:
            return self._store.get(key)[0] == body
        except KeyAbsent:
            return False  # a 409: two writers met there, and neither has won

    def read(self, since_epoch: int = 0) -> list[dict[str, Any]]:
        """Return the events from an epoch on, oldest first, each with an `id` that no other event of any model has."""
        return [self.one(name) for name in self.names(f"{since_epoch:08d}" if since_epoch else "")]

    def names(self, after: str = "") -> list[str]:
        """Return the names of the events beyond one, or beyond its beginning: `<epoch>-<number>-<what>`, in order."""
        found = self._store.objects(
            self._root, after=f"{self._root}{after}.json" if "-" in after else f"{self._root}{after}"
        )
        return [entry.key.removeprefix(self._root).removesuffix(".json") for entry in found]

    def one(self, name: str) -> dict[str, Any]:
        """Return an event by its name."""
        return {"id": f"{self._model}/{name}", **json.loads(self._store.get(f"{self._root}{name}.json")[0])}

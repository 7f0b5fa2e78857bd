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

    def read(self) -> list[dict[str, Any]]:
        """Return every event, oldest first."""
        return [json.loads(self._store.get(entry.key)[0]) for entry in self._store.objects(self._root)]

"""What has happened to a model, one object an event, appended and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from model_release.repository.store import ConditionFailed, ObjectStore


class Events:
    """The events of one model, in the order of their epochs."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._root = f"ledger/{model}/events/"

    def append(self, epoch: int, what: str, at: datetime, facts: Mapping[str, Any]) -> None:
        """Append an event under the next free number of its epoch."""
        body = json.dumps({"at": at.isoformat(), "epoch": epoch, "what": what, **facts}, indent=1, default=str).encode()
        number = len(self._store.objects(f"{self._root}{epoch:08d}-"))
        while True:
            try:
                self._store.put(f"{self._root}{epoch:08d}-{number:06d}-{what}.json", body, if_absent=True)
            except ConditionFailed:
                number += 1
            else:
                return

    def read(self) -> list[dict[str, Any]]:
        """Return every event, oldest first."""
        return [json.loads(self._store.get(entry.key)[0]) for entry in self._store.objects(self._root)]

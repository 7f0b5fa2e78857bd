"""
The looks of a stage, in one object: whoever goes on after a restart goes on from here.

The object is changed by compare-and-swap; a look that a second watcher took at the same time is not counted twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore


class StageLooks(BaseModel):
    """
    What was read of a stage: cumulative counters by fleet, and the looks and the verdict made of them.

    `carried` is what the gates came to in the stages before, set with the first look; None: not worked out yet.
    `replicas` is what the canary's proved replicas had counted at the last look, by name.
    """

    stage: int
    started_at: datetime
    baseline: dict[str, Any]
    counters: dict[str, Any]
    bounds_ms: list[float] | None = None
    carried: dict[str, Any] | None = None
    looks: list[dict[str, Any]] = []
    verdict: dict[str, Any] | None = None
    replicas: dict[str, dict[str, int]] = {}


class Looks:
    """The looks of one try of one release."""

    def __init__(self, store: ObjectStore, model: str, version: int, holder: str) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in holder)
        self._store = store
        self._root = f"ledger/{model}/looks/{version}/{safe}/"

    def read(self, stage: int) -> tuple[StageLooks | None, str | None]:
        """Return a stage's looks and the ETag to write them back with."""
        try:
            body, etag = self._store.get(f"{self._root}{stage:03d}.json")
        except KeyAbsent:
            return None, None
        return StageLooks.model_validate_json(body), etag

    def write(self, looks: StageLooks, etag: str | None) -> bool:
        """Write a stage's looks back; False when another watcher was faster, whose looks count then."""
        key = f"{self._root}{looks.stage:03d}.json"
        try:
            self._store.put(key, looks.model_dump_json().encode(), if_absent=etag is None, if_match=etag)
        except ConditionFailed:
            return False
        return True

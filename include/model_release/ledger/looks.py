"""
The looks of a stage, in one object: whoever goes on after a restart goes on from here.

The object is changed by compare-and-swap; a look that a second watcher took at the same time is not counted twice.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore


class StageLooks(BaseModel):
    """
    What was read of a stage: cumulative counters by fleet, and the looks and the verdict made of them.

    `carried` is what the gates came to in the stages before, set with the first look; None: not worked out yet.
    `replicas` is what the canary's proved replicas had counted at the last look, by name. Of the last look are also
    `routers`, each router's counters by fleet; `own`, the users' counters by gate and arm; `by_replica`, what each of
    stable's replicas was sent, as (requests, failed ones); `users`, up to where the
    router's affected users were counted; they were told of last at `users_heard_t`.
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
    routers: dict[str, dict[str, Any]] = {}
    own: dict[str, dict[str, Any]] = {}
    by_replica: dict[str, tuple[int, int]] = {}
    users: dict[str, Any] = {}
    users_heard_t: float | None = None


class BystanderRecord(BaseModel):
    """
    What the router counted of another model on the canary's fleet.

    `counters` are those of the last note before the deploy, `before` those of the note before that, `last` those of the
    last look; `looks` are (requests, failed ones) since the deploy. `over`: it was released itself since, or moved.
    """

    version: int
    counters: dict[str, Any]
    before: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    looks: list[tuple[int, int]] = []
    over: bool = False


class Bystanders(BaseModel):
    """The other models on the canary's fleet, by name, as they were noted before the deploy, and looked at since."""

    fleet: str
    deployed: bool
    models: dict[str, BystanderRecord]


def as_name(holder: str) -> str:
    """Return a run as a part of a key: what is no letter, digit or one of -_. becomes a hyphen."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in holder)


class Looks:
    """The looks of one try of one release."""

    def __init__(self, store: ObjectStore, model: str, version: int, holder: str) -> None:
        self._store = store
        self._root = f"ledger/{model}/looks/{version}/{as_name(holder)}/"

    def read(self, stage: int) -> tuple[StageLooks | None, str | None]:
        """Return a stage's looks and the ETag to write them back with."""
        try:
            body, etag = self._store.get(f"{self._root}{stage:03d}.json")
        except KeyAbsent:
            return None, None
        return StageLooks.model_validate_json(body), etag

    def write(self, looks: StageLooks, etag: str | None) -> bool:
        """Write a stage's looks back; False when another watcher was faster, whose looks count then."""
        return self._swap(f"{self._root}{looks.stage:03d}.json", looks.model_dump_json().encode(), etag)

    def _swap(self, key: str, body: bytes, etag: str | None) -> bool:
        """Replace what was read; a try whose answer was lost, and which meets its own bytes when repeated, did it."""
        try:
            self._store.put(key, body, if_absent=etag is None, if_match=etag)
        except ConditionFailed:
            return self._store.get(key)[0] == body
        return True

    def read_before(self) -> list[dict[str, Any]]:
        """Return the looks at stable alone, taken while the release was prepared; none where nobody took any."""
        try:
            looks: list[dict[str, Any]] = json.loads(self._store.get(f"{self._root}before.json")[0])
        except KeyAbsent:
            return []
        return looks

    def write_before(self, looks: list[dict[str, Any]]) -> None:
        """Keep the looks at stable alone."""
        self._store.put(f"{self._root}before.json", json.dumps(looks).encode())

    def read_bystanders(self) -> tuple[Bystanders | None, str | None]:
        """Return what was noted of the other models, and the ETag to write it back with."""
        try:
            body, etag = self._store.get(f"{self._root}bystanders.json")
        except KeyAbsent:
            return None, None
        return Bystanders.model_validate_json(body), etag

    def write_bystanders(self, bystanders: Bystanders, etag: str | None) -> bool:
        """Write the other models back; False when another watcher was faster, whose look counts then."""
        return self._swap(f"{self._root}bystanders.json", bystanders.model_dump_json().encode(), etag)

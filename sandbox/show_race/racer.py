"""
One process of the race: it builds, restores, pauses, dies and comes back, and writes down what it was told.

Times are of CLOCK_MONOTONIC, which is the same for all processes of a machine; leases run by the store's clock.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO, TypeVar

from model_release.environment import S3
from model_release.errors import ReleaseError
from model_release.identity import Kind, Release
from model_release.ledger.claim import Claim, take
from model_release.ledger.state import State, StateFile
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.store import ObjectStore

T = TypeVar("T")
MODEL = "raced"
LEASE_S = 3.0
#: A key of the state that the library keeps and does not know: how many changes the racers made.
COUNT = "changes_of_the_race"
FILES = ("model.onnx", "config.pbtxt")
_SECONDS_A_VERSION = 5
_FIRST_VERSION = 20260101000000


def race_one(s3: S3, number: int, seconds: float, folder: Path) -> None:
    """Race for so many seconds, and write each record as a line of JSON."""
    with (folder / f"{number}.jsonl").open("w", encoding="utf-8") as out:
        _Racer(s3, number, out).run(seconds)


class _Racer:
    def __init__(self, s3: S3, number: int, out: TextIO) -> None:
        self._number, self._out, self._lock = number, out, threading.Lock()
        self._random = random.Random(number)
        self._store = ObjectStore(s3)
        self._file, self._archive = StateFile(self._store, MODEL), Archive(self._store, MODEL)
        self._runs = 0

    def run(self, seconds: float) -> None:
        started = time.monotonic()
        while (age_s := time.monotonic() - started) < seconds:
            self._runs += 1
            restores = self._random.random() < 0.03
            sealed = self._archive.versions() if restores else []
            version = self._random.choice(sealed) if sealed else _FIRST_VERSION + int(age_s / _SECONDS_A_VERSION)
            kind = Kind.RESTORE if sealed else Kind.BUILD
            try:
                self._release(Release(MODEL, version, kind, f"racer-{self._number}-{self._runs}"))
            except ReleaseError:
                time.sleep(self._random.uniform(0, 0.3))

    def _release(self, release: Release) -> None:
        """Go through a release; some are slow, some pause for longer than their lease, some die with the claim."""
        sort = self._random.random()
        pauses, slow, dies = sort < 0.2, sort > 0.8, self._random.random() < 0.1
        claim = self._take(release, "plan", begins=True)
        with nullcontext() if pauses else claim:
            self._change(claim)
            if release.kind is Kind.BUILD:
                self._publish(release, claim, pauses=pauses)
            else:
                self._read(release.version)
            if pauses or slow:
                time.sleep(self._random.uniform(0, 1.5 * LEASE_S))
            self._change(claim)
        claim = self._take(release, "deploy", begins=False)
        with claim:
            for _ in range(self._random.randint(1, 4)):
                self._change(claim)
        if not dies:
            self._change(claim, gives_back=True)

    def _take(self, release: Release, phase: str, *, begins: bool) -> Claim:
        told = {"holder": release.holder, "kind": str(release.kind), "begins": begins}
        claim = self._noted(
            "take",
            told,
            lambda: take(self._file, self._store, release, phase, LEASE_S, begins=begins),
            lambda taken: {"epoch": taken.epoch},
        )
        renew = claim.renew
        told = {**told, "epoch": claim.epoch}
        claim.renew = lambda: self._noted("renew", told, renew, lambda _: {})  # type: ignore[method-assign]
        return claim

    def _change(self, claim: Claim, *, gives_back: bool = False) -> None:
        def counted(state: State) -> State:
            released: dict[str, Any] = {"claim": None} if gives_back else {}
            return state.model_copy(update={COUNT: getattr(state, COUNT, 0) + 1, **released})

        told = {"epoch": claim.epoch, "gives_back": gives_back}
        self._noted("change", told, lambda: claim.change(counted), lambda state: {"count": getattr(state, COUNT)})

    def _publish(self, release: Release, claim: Claim, *, pauses: bool) -> None:
        """Seal a version that holds the run's own name, so that no two runs write the same bytes."""

        def check() -> None:
            claim.check()
            if pauses:
                time.sleep(self._random.uniform(0, LEASE_S))  # between the check and the write

        def published() -> Manifest:
            with TemporaryDirectory() as name:
                entries = {}
                for file in FILES:
                    path = Path(name) / file
                    path.write_text(f"{file} of {release.holder}" * self._random.randint(1, 2000))
                    entries[file] = self._archive.write(release.version, "base", file, path, check)
            source = SourceEntry(uri=release.holder, sha256=hashlib.sha256(release.holder.encode()).hexdigest())
            manifest = Manifest(
                model=MODEL,
                version=release.version,
                part="base",
                contract=1,
                source=source,
                files=entries,
                tools={},
                summary={},
                spec_digest="race",
                release_digest="race",
                run_id=release.run_id,
                sealed_at=self._store.now(),
            )
            return self._archive.seal(manifest, check)

        told = {"holder": release.holder, "version": release.version}
        self._noted("seal", told, published, lambda sealed: {"sealed_by": sealed.run_id})

    def _read(self, version: int) -> None:
        """Read a sealed version as a deploy would, every byte verified."""

        def read() -> None:
            manifest = self._archive.require(version)
            with TemporaryDirectory() as name:
                for file in FILES:
                    self._archive.read_sealed(manifest, file, Path(name) / file)

        self._noted("read", {"version": version}, read, lambda _: {})

    def _noted(self, what: str, told: dict[str, Any], work: Callable[[], T], facts: Callable[[T], dict[str, Any]]) -> T:
        """Do it, and write down when, and what came of it."""
        record: dict[str, Any] = {"process": self._number, "op": what, **told, "began": time.monotonic()}
        try:
            result = work()
        except ReleaseError as error:
            self._note(record | {"outcome": type(error).__name__, "sentence": str(error)})
            raise
        self._note(record | {"outcome": "done", **facts(result)})
        return result

    def _note(self, record: dict[str, Any]) -> None:
        line = json.dumps({**record, "ended": time.monotonic()})
        with self._lock:  # renewals come from a thread of their own
            self._out.write(f"{line}\n")

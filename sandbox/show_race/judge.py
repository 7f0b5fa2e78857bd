"""
What must hold of a race, judged from outside: from what each process was told and when, and from what lies on S3.

With leases two processes may believe at once that they hold the model: one was paused, and its lease ran out. What must
not be is that both are right. A hold is therefore the time in which a process was provably right: from the answer to
its take to the start of the last call in that epoch that was answered with success. No two holds may overlap.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from model_release.errors import ReleaseError
from model_release.repository.archive import Archive
from sandbox.show_race.racer import LEASE_S

#: What the racer wrote down: process, op, epoch, when it began and ended, outcome.
Record = dict[str, Any]
#: The Date header of the store, by which leases run, is in whole seconds.
_CLOCK_S = 1.0


def violations(records: list[Record], final_count: int, final_epoch: int) -> list[str]:
    """Return a sentence for everything that must not be."""
    done = [record for record in records if record["outcome"] == "done"]
    found = [
        *_of_epochs(done, final_epoch),
        *_of_holds(done),
        *_of_changes(done, records, final_count),
        *_of_leases(done),
        *_of_seals(done),
        *(f"a sealed version was read wrongly: {each['sentence']}" for each in records if _is_bad_read(each)),
    ]
    return list(dict.fromkeys(found))


def _is_bad_read(record: Record) -> bool:
    return bool(record["op"] == "read" and record["outcome"] not in ("done", "StoreUnavailable"))


def _of_epochs(done: list[Record], final_epoch: int) -> Iterator[str]:
    takers: dict[int, list[Record]] = defaultdict(list)
    for record in done:
        if record["op"] == "take":
            takers[record["epoch"]].append(record)
    for epoch, those in takers.items():
        if len(those) > 1:
            yield f"epoch {epoch} was given to {len(those)}: {[each['holder'] for each in those]}"
    missing = set(range(1, final_epoch + 1)) - set(takers)
    if missing or max(takers, default=0) > final_epoch:
        yield f"epochs 1 to {final_epoch} were not all given: {sorted(missing)[:5]} are nobody's"
    for record in done:
        if record["op"] in ("change", "renew"):
            owner = takers.get(record["epoch"], [{"process": None}])[0]["process"]
            if owner != record["process"]:
                yield f"process {record['process']} wrote in epoch {record['epoch']} of process {owner}"


def holds(done: list[Record]) -> list[tuple[float, float, int]]:
    """Return (start, end, epoch) of each time in which a process provably held the model, by epoch."""
    starts = {record["epoch"]: record["ended"] for record in done if record["op"] == "take"}
    ends = dict(starts)
    for record in done:
        if record["op"] in ("change", "renew") and record["epoch"] in ends:
            ends[record["epoch"]] = max(ends[record["epoch"]], record["began"])
    return [(starts[epoch], ends[epoch], epoch) for epoch in sorted(starts)]


def _of_holds(done: list[Record]) -> Iterator[str]:
    for (_, ended, earlier), (began, _, later) in pairwise(holds(done)):
        if ended > began:
            yield f"epochs {earlier} and {later} were held at once for {(ended - began) * 1000:.1f} ms"


def _of_changes(done: list[Record], records: list[Record], final_count: int) -> Iterator[str]:
    """Nothing is lost and nothing is done twice, and changes are in one order, which is that of time and of epochs."""
    changes = sorted((record for record in done if record["op"] == "change"), key=lambda record: int(record["count"]))
    unknown = sum(record["op"] == "change" and record["outcome"] == "StoreUnavailable" for record in records)
    twice = [count for count, times in Counter(record["count"] for record in changes).items() if times > 1]
    if twice:
        yield f"changes {twice[:5]} were answered as done to two processes"
    if not len(changes) <= final_count <= len(changes) + unknown:
        yield f"{len(changes)} changes were answered as done, the state counts {final_count}"
    latest_start = 0.0
    for before, after in pairwise(changes):
        latest_start = max(latest_start, before["began"])
        if after["epoch"] < before["epoch"]:
            yield f"epoch {after['epoch']} wrote after epoch {before['epoch']}"
        if after["ended"] < latest_start:
            yield f"change {after['count']} was over before an earlier one began"


def _of_leases(done: list[Record]) -> Iterator[str]:
    """A build takes a claim that was given back or has run out; only a restore takes a living one."""
    takes = {record["epoch"]: record for record in done if record["op"] == "take"}
    alive_from: dict[int, float] = {}
    given_back = set()
    for record in done:
        if record["op"] in ("take", "renew"):
            alive_from[record["epoch"]] = max(alive_from.get(record["epoch"], 0.0), record["began"])
        elif record["op"] == "change" and record["gives_back"]:
            given_back.add(record["epoch"])
    for epoch, later in takes.items():
        earlier = takes.get(epoch - 1)
        if earlier is None or later["kind"] == "restore" or earlier["holder"] == later["holder"]:
            continue
        age_s = later["ended"] - alive_from[epoch - 1]
        if epoch - 1 not in given_back and age_s < LEASE_S - _CLOCK_S:
            yield f"{later['holder']}, a build, took the claim of {earlier['holder']} {age_s:.2f} s after its renewal"


def _of_seals(done: list[Record]) -> Iterator[str]:
    winners: dict[int, set[str]] = defaultdict(set)
    for record in done:
        if record["op"] == "seal":
            winners[record["version"]].add(record["sealed_by"])
    for version, those in winners.items():
        if len(those) > 1:
            yield f"version {version} was sealed by {sorted(those)}"


def changed_bytes(archive: Archive, folder: Path) -> list[str]:
    """Read every sealed version, and return a sentence for each file that is not what was sealed."""
    found = []
    for version in archive.versions():
        manifest = archive.require(version)
        for name in manifest.files:
            try:
                archive.read_sealed(manifest, name, folder / "file")
            except ReleaseError as error:
                found.append(f"after its seal: {error}")
    return found

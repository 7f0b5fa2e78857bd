"""`python -m sandbox.show_race [--seconds 60] [--processes 8]`: exit code 1 on any violation."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_release.environment import S3, load_environment
from model_release.ledger.state import StateFile
from model_release.repository.archive import Archive
from model_release.repository.store import ObjectStore
from sandbox.home import find_home
from sandbox.show_race import judge
from sandbox.show_race.racer import COUNT, LEASE_S, MODEL, race_one

_END_S = 60


@dataclass(frozen=True)
class Raced:
    """What came of a race."""

    records: list[judge.Record]
    sealed: list[int]
    violations: list[str]

    def count(self, op: str, outcome: str = "done", **facts: Any) -> int:
        """Count the calls of a sort."""
        asked = {"op": op, "outcome": outcome, **facts}
        return sum(asked.items() <= record.items() for record in self.records)

    @property
    def holders(self) -> set[str]:
        """The runs that had the claim."""
        return {record["holder"] for record in self.records if record["op"] == "take" and record["outcome"] == "done"}


def race(s3: S3, seconds: float, processes: int) -> Raced:
    """Let so many processes race for one model under a prefix of their own, which is deleted, and judge them."""
    s3 = s3.model_copy(update={"prefix": f"race/{uuid.uuid4().hex}"})
    store, spawn = ObjectStore(s3), multiprocessing.get_context("spawn")
    with TemporaryDirectory() as name:
        folder = Path(name)
        racers = [spawn.Process(target=race_one, args=(s3, number, seconds, folder)) for number in range(processes)]
        for racer in racers:
            racer.start()
        died = []
        for number, racer in enumerate(racers):
            racer.join(seconds + _END_S)
            if racer.exitcode != 0:
                racer.kill()
                died.append(f"process {number} ended with exit code {racer.exitcode}")
        lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
        records = [json.loads(line) for line in lines]
        state, archive = StateFile(store, MODEL).read(), Archive(store, MODEL)
        found = judge.violations(records, getattr(state, COUNT, 0), state.epoch)
        raced = Raced(records, archive.versions(), [*died, *found, *judge.changed_bytes(archive, folder)])
    for entry in store.objects(""):
        store.delete(entry.key)
    return raced


def main() -> int:
    """Race, print what was counted, and return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.show_race", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=8)
    asked = parser.parse_args()
    environment = load_environment(find_home().environment_file)
    raced = race(environment.s3, asked.seconds, asked.processes)
    for line in told(raced, asked.processes):
        print(line)
    return 1 if raced.violations else 0


def told(raced: Raced, processes: int) -> list[str]:
    """Return what was counted, a line each."""
    refused = Counter(each["outcome"] for each in raced.records if each["outcome"] != "done")
    held = judge.holds([each for each in raced.records if each["outcome"] == "done"])
    rows = {
        "processes": f"{processes} on one model, leases of {LEASE_S:g} s",
        "claims begun": f"{raced.count('take', begins=True, kind='build')} by builds, "
        f"{raced.count('take', begins=True, kind='restore')} by restores",
        "epochs": f"{raced.count('take')}, of {len(raced.holders)} holders",
        "held": f"{sum(end - start for start, end, _ in held):.1f} s by one at a time, {len(held)} times",
        "changes": f"{raced.count('change')}, {raced.count('renew')} renewals",
        "versions sealed": f"{len(raced.sealed)}, read {raced.count('read')} times",
        "refused": ", ".join(f"{times} {what}" for what, times in sorted(refused.items())) or "nothing",
        "violations": str(len(raced.violations)),
    }
    return [
        *(f"{name:<16} {value}" for name, value in rows.items()),
        *(f"violated: {each}" for each in raced.violations),
    ]


if __name__ == "__main__":
    sys.exit(main())

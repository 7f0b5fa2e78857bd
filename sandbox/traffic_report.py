"""What clients saw: the file that the traffic process writes, and its summary over a span of time."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

MAX_FILE_BYTES = 32 * 2**20
"""Beyond this the file becomes `<name>.1` and a new one begins: an hour or more lies in the two of them."""
_FLUSH_S = 0.5
_BLOCK_BYTES = 64 * 2**10
#: Records are written as the responses come, so one may stand this much later than its `t` says.
_LONGEST_WAIT_S = 120


@dataclass(frozen=True)
class Record:
    """One response: `t` is when it was asked for (unix s), `right` is None where nothing was predicted."""

    t: float
    protocol: str
    arm: str
    version: str
    outcome: str
    latency_ms: float
    right: bool | None

    def line(self) -> str:
        """Return the record as a line of CSV."""
        right = "" if self.right is None else str(int(self.right))
        return f"{self.t:.3f},{self.protocol},{self.arm},{self.version},{self.outcome},{self.latency_ms:.2f},{right}\n"

    @classmethod
    def parse(cls, line: str) -> Record:
        """Return the record of a line; raises ValueError for one that was cut off."""
        if not line.endswith("\n"):
            raise ValueError(line)
        t, protocol, arm, version, outcome, latency_ms, right = line.rstrip("\n").split(",")
        return cls(float(t), protocol, arm, version, outcome, float(latency_ms), bool(int(right)) if right else None)


class Recorder:
    """Append records to a file of bounded size; a crash loses half a second."""

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._file: IO[str] = path.open("a", encoding="ascii")
        self._size_bytes = path.stat().st_size
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Recorder:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write what is left."""
        self._file.close()

    def write(self, record: Record) -> None:
        """Append one record; readers see it within half a second."""
        self._size_bytes += self._file.write(record.line())
        now = time.monotonic()
        if now - self._flushed_at > _FLUSH_S:
            self._file.flush()
            self._flushed_at = now
        if self._size_bytes > self._max_bytes:
            self._file.close()
            self._path.replace(older(self._path))
            self._file = self._path.open("a", encoding="ascii")
            self._size_bytes = 0


def older(path: Path) -> Path:
    """Return where the records before the last rotation lie."""
    return path.with_name(f"{path.name}.1")


def read_records(path: Path, since: float = 0, until: float = math.inf) -> Iterator[Record]:
    """Yield the records asked for in [since, until), of both files, as they were written."""
    for part in (older(path), path):
        try:
            file = part.open("rb")
        except FileNotFoundError:
            continue
        with file:
            _seek(file, since - _LONGEST_WAIT_S)
            for line in file:
                record = _parsed(line)
                if record and since <= record.t < until:
                    yield record


def _parsed(line: bytes) -> Record | None:
    try:
        return Record.parse(line.decode("ascii"))
    except ValueError:
        return None  # cut off by a kill, or being written


def _seek(file: IO[bytes], t: float) -> None:
    """Go to a line before the first record of that moment, by halving: the file may hold hours."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > _BLOCK_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        record = _parsed(file.readline())
        if record is None or record.t >= t:
            high = middle
        else:
            low = middle
    file.seek(low)
    if low:
        file.readline()


@dataclass(frozen=True)
class Summary:
    """
    What clients saw in a span of time.

    `requests` counts ok and error; `unreleased` (answered "no released version") stands beside them. Shares are of
    the requests that said their arm or version. `accuracy` is of the answers whose right one is known, else None.
    """

    requests: int = 0
    errors: int = 0
    unreleased: int = 0
    share_by_arm: dict[str, float] = field(default_factory=dict)
    share_by_version: dict[str, float] = field(default_factory=dict)
    errors_by_version: dict[str, int] = field(default_factory=dict)
    accuracy_by_version: dict[str, float] = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None
    accuracy: float | None = None


def summarise(records: Iterable[Record], since: float = 0, until: float = math.inf) -> Summary:
    """Return the summary of the records asked for in [since, until), unix seconds."""
    inside = [record for record in records if since <= record.t < until]
    asked = [record for record in inside if record.outcome != "unreleased"]
    latencies_ms = sorted(record.latency_ms for record in asked if record.outcome == "ok")
    versions = sorted({record.version for record in asked if record.version})
    return Summary(
        requests=len(asked),
        errors=sum(record.outcome == "error" for record in asked),
        unreleased=len(inside) - len(asked),
        share_by_arm=_shares(record.arm for record in asked),
        share_by_version=_shares(record.version for record in asked),
        errors_by_version=dict(Counter(record.version or "unknown" for record in asked if record.outcome == "error")),
        accuracy_by_version={
            version: accuracy
            for version in versions
            if (accuracy := _accuracy(record for record in asked if record.version == version)) is not None
        },
        p50_ms=_quantile(latencies_ms, 0.50),
        p99_ms=_quantile(latencies_ms, 0.99),
        accuracy=_accuracy(asked),
    )


def _shares(names: Iterable[str]) -> dict[str, float]:
    counts = Counter(name for name in names if name)
    total = sum(counts.values())
    return {name: count / total for name, count in sorted(counts.items())}


def _accuracy(records: Iterable[Record]) -> float | None:
    known = [record.right for record in records if record.right is not None]
    return sum(known) / len(known) if known else None


def _quantile(ordered: list[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else None

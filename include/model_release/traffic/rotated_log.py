"""
A log that somebody writes and rotates meanwhile, read from where an earlier reading ended.

A file is read with the one that was renamed from it, `FILE.1`, uncompressed. Positions are (inode, offset), so that one
is found again after the file was renamed, once. Only whole lines are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

_TO_THE_END = -1
_TAIL_BYTES = 2**16


class Part(NamedTuple):
    """What a log held of a release at the reading before, what it holds since, and the next reading's `since`."""

    before: bytes
    new: bytes
    upto: list[int]
    """Inode and offset where the release began, and where this reading ended."""


class _Log(NamedTuple):
    """A file's whole lines from an offset on."""

    inode: int
    start: int
    held: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.held)


def parted(path: Path, since: Sequence[int] | None) -> Part:
    """
    Read a log; `since` is `upto` of an earlier reading, or None where a release begins now.

    Raises FileNotFoundError, OSError.
    """
    logs = _read(path, *(since[:2] if since else (0, _TO_THE_END)))
    # While the new file is empty Envoy may still write into the one that was renamed.
    last = next((each for each in reversed(logs) if each.end), logs[-1])
    if not since:
        return Part(b"", b"", [last.inode, last.end] * 2)
    whole = b"".join(each.held for each in logs)
    began_at, place_at = _found(logs, *since[:2]), _found(logs, *since[2:])
    if began_at is None or place_at is None:
        log.warning("%s was cut, or rotated twice in a release: some of its lines count again, or not at all", path)
        began_at = began_at or 0
        place_at = len(whole) - len(logs[-1].held) if place_at is None else place_at
    return Part(whole[began_at:place_at], whole[place_at:], [*since[:2], last.inode, last.end])


def _found(logs: Sequence[_Log], inode: int, offset: int) -> int | None:
    """Return where a position lies in logs one after the other."""
    passed = 0
    for each in logs:
        if each.inode == inode and each.start <= offset <= each.end:
            return passed + offset - each.start
        passed += len(each.held)
    return None


def _read(path: Path, inode: int, offset: int) -> list[_Log]:
    """
    Return the lines since a position, or the last ones: of the current file, and before it of the one renamed from it.

    Raises OSError, FileNotFoundError when there is neither.
    """
    rotated = path.with_name(f"{path.name}.1")
    try:
        current = _read_one(path, inode, offset)
    except FileNotFoundError:
        return [_read_one(rotated, inode, offset)]  # it is being rotated
    if current.inode == inode and current.start == offset:
        return [current]
    try:
        renamed = _read_one(rotated, inode, offset)
    except FileNotFoundError:
        return [current]
    return [renamed, _read_one(path, inode, offset) if renamed.inode == current.inode else current]


def _read_one(path: Path, inode: int, offset: int) -> _Log:
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        start = 0
        if offset == _TO_THE_END:
            start = max(0, about.st_size - _TAIL_BYTES)
        elif about.st_ino == inode and offset <= about.st_size:  # else it was cut
            start = offset
        file.seek(start)
        held = file.read()
    return _Log(about.st_ino, start, held[: held.rfind(b"\n") + 1])

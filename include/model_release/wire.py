"""What a child process says to its parent: one JSON object a line, and nothing that the parent has to trust."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

_MOST_LINE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**16
#: How often to look whether the child has ended, where a process of its own keeps the pipe open.
_LOOK_MS = 200


class Garbled(Exception):
    """A line that no child of ours would send; its text follows "it sent"."""


def messages(read_fd: int, has_ended: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """
    Yield what the child says, until the pipe is closed, or the child has ended and no more lies in the pipe.

    A message is {"progress": str}, {"protections": [str]}, {"error": str, "message": str} or {"result": ...}.
    Raises Garbled.
    """
    poll = select.poll()
    poll.register(read_fd, select.POLLIN | select.POLLHUP)
    waiting = bytearray()
    while True:
        # The order matters: what was sent before the end lies in the pipe once the end is seen.
        ended = has_ended()
        if not poll.poll(0 if ended else _LOOK_MS):
            if ended:
                return
            continue
        chunk = os.read(read_fd, _CHUNK_BYTES)
        if not chunk:
            return
        waiting += chunk
        lines: list[bytes] = []
        if b"\n" in chunk:
            *lines, rest = bytes(waiting).split(b"\n")
            waiting = bytearray(rest)
        for line in [*lines, waiting]:
            if len(line) > _MOST_LINE_BYTES:
                message = f"a line of more than {_MOST_LINE_BYTES} bytes"
                raise Garbled(message)
        yield from map(_message, lines)


def _message(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and _is_known(said):
        return said
    message = f"what is no answer: {line[:80]!r}"
    raise Garbled(message)


def _is_known(said: dict[str, Any]) -> bool:
    match said:
        case {"protections": [*names]}:
            return all(isinstance(name, str) for name in names)
        case {"progress": str()} | {"error": str(), "message": str()} | {"result": _}:
            return True
    return False

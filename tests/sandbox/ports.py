"""Ports for what a test starts by itself: each parallel worker has a block of its own."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

from sandbox.settings import HOST

#: Above the sandboxes, the tests' (conftest.py) and the one in use, and below what Linux gives to connections.
FIRST, BEYOND = 28400, 32768


def worker() -> tuple[int, int]:
    """Which of pytest's parallel workers this process is, and of how many."""
    name, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    return int(name.removeprefix("gw")), int(workers)


def own_block() -> range:
    """Return the ports that no other worker takes."""
    number, workers = worker()
    size = (BEYOND - FIRST) // workers
    return range(FIRST + number * size, FIRST + (number + 1) * size)


def _is_free(port: int) -> bool:
    """Say whether a port may be bound alone, as some programs would share one that is taken."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


#: One round for all that this process starts, so that none is told twice before it is bound.
_ROUND = itertools.cycle(own_block())


def free_ports() -> Iterator[int]:
    """Return ports that are free, each another one."""
    for _ in own_block():
        port = next(_ROUND)
        if _is_free(port):
            yield port

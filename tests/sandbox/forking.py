"""Work in processes that are forked from one that has imported everything already, and has opened no connection."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["model_release.steps.story", "onnxruntime", "tritonclient.grpc", "tests.sandbox.stopping"]
)
#: How long the longest of a release's steps may take.
STEP_S = 120


@contextmanager
def forked(run: Callable[..., None], *given: Any) -> Iterator[tuple[Any, Connection]]:
    """Call `run(*given, pipe)` in a process of its own, killed at the end; yields it and our end of the pipe."""
    ours, theirs = _FORKS.Pipe()
    process = _FORKS.Process(target=run, args=(*given, theirs))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def received(pipe: Connection, what: object, within_s: float = STEP_S) -> object:
    """Return what the process sends next. Raises EOFError when it is dead."""
    assert pipe.poll(within_s), f"nothing was heard of {what} for {within_s} s"
    return pipe.recv()

"""
Versions that are bad in five ways, each released on a fleet that another model's clients are served by.

The bad model is an ensemble, whose part in Python does what it is told. It is sound wherever it is proved first, in the
worker and on bench, and bad on the fleets alone: what is shown is what the fleet's own proofs and its neighbours bear.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from model_release.benchmark import memory
from model_release.environment import Replica
from model_release.errors import ReleaseError
from model_release.identity import Release
from model_release.steps import guard
from model_release.triton.replica import ReplicaClient
from tests.sandbox import ensemble_parts
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import SECOND, Clients, Model, await_true

_MODEL = """
import os
import signal
import time

import numpy as np
import triton_python_backend_utils as pb_utils

MEGABYTE = 2**20
ON_FLEET = "triton-bench" not in os.environ.get("TRITON_AWS_MOUNT_DIRECTORY", "triton-bench")
IN_TRITON = "TRITON_AWS_MOUNT_DIRECTORY" in os.environ


class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        {answer}
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        x = np.array([[len(text), 2, 1] for text in texts.ravel()], np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("x", {x})])
"""
#: What the neighbour's replicas are said to have left where a version is to eat it.
SMALL_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Scene:
    """One way to be bad, as Python for the part, and the words that the release has to end with."""

    what: str
    words: str
    initialize: str = "pass"
    answer: str = "pass"
    x: str = "x"
    small_machines: bool = False


SCENES = [
    Scene("fails to load", "refused to load", initialize='assert not ON_FLEET, "its table is missing"'),
    Scene("hangs in its load", "no answer within", initialize="time.sleep(3600 if ON_FLEET else 0)"),
    Scene(
        "ends its server at the first request",
        "did not answer",
        answer="os.kill(os.getppid(), signal.SIGKILL) if ON_FLEET else None",
    ),
    Scene(
        "eats memory",
        "No fleet was touched",
        initialize="self.held = np.ones(400 * MEGABYTE, np.uint8) if IN_TRITON else None",
        small_machines=True,
    ),
    Scene("answers wrong shapes", "shape", x="x[:, :2] if ON_FLEET else x"),
]


@dataclass
class Seen:
    """How one bad release ended, and what the neighbour's clients saw from its start until all replicas were back."""

    scene: Scene
    seconds: float = 0.0
    back_s: float = 0.0
    sentence: str = ""
    restarted: list[str] = field(default_factory=list)
    requests: int = 0
    errors: int = 0
    problems: list[str] = field(default_factory=list)


def played(scene: Scene, number: int, bad: Model, neighbour: Model, sandbox: Sandbox, include: Path) -> Seen:
    """Release one bad version beside the neighbour, and wait until each replica serves the neighbour again."""
    seen, before, version = Seen(scene), sandbox.triton_pids(), SECOND + number
    stable = bad.state.stable
    release = _written(scene, bad, version, include)
    with Clients(neighbour) as clients, _machines(scene):
        started = time.monotonic()
        try:
            bad.release(release)
            seen.problems.append("it was released")
        except ReleaseError as error:
            seen.sentence = str(error).replace(f"{sandbox.home.folder}/", "")
        seen.seconds = time.monotonic() - started
        await_true(lambda: _is_well(neighbour), f"the neighbour is on each replica again after: {scene.what}", 120)
        seen.back_s = time.monotonic() - started - seen.seconds
        answered = clients.seen.total()
        await_true(lambda: clients.seen.total() > answered + 100, "clients ask on")
    seen.restarted = sorted(name for name, pid in sandbox.triton_pids().items() if before[name] != pid)
    seen.requests, seen.errors = clients.seen.total(), clients.failed()
    if seen.errors:
        seen.problems.append(f"clients of the neighbour saw {seen.errors} errors: {clients.problems[:3]}")
    if scene.words not in seen.sentence:
        seen.problems.append(f"its sentence does not say {scene.words!r}")
    if (bad.state.stable, bad.state.canary) != (stable, None):
        seen.problems.append("the ledger is not as before the release")
    return seen


def _written(scene: Scene, bad: Model, version: int, include: Path) -> Release:
    release = ensemble_parts.build(bad, version, include, 2)
    part = include / "start" / "model.py"
    part.write_text(_MODEL.format(initialize=scene.initialize, answer=scene.answer, x=scene.x))
    return release


@contextmanager
def _machines(scene: Scene) -> Iterator[None]:
    """Have the replicas' machines small, as the check before a deploy sees them."""
    if not scene.small_machines:
        yield
        return
    with mock.patch.object(memory.psutil, "virtual_memory", return_value=SimpleNamespace(available=SMALL_BYTES)):
        yield


def _is_well(neighbour: Model) -> bool:
    """Say whether the neighbour is ready on each replica of its fleet, after the guard has looked."""
    with suppress(ReleaseError):
        guard.run(neighbour.environment)
    stable = neighbour.state.stable
    assert stable
    return all(
        _is_ready(neighbour, replica) for replica in neighbour.environment.pairs["default"].fleet(stable.fleet).replicas
    )


def _is_ready(model: Model, replica: Replica) -> bool:
    with ReplicaClient(replica, model.environment) as client, suppress(ReleaseError):
        return bool(client.live() and client.ready(model.name))
    return False

"""What a reload costs beside one bare load call, and what clients see of versions that come and go."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tritonclient.grpc import InferenceServerClient

from model_release.errors import RolledBack
from model_release.identity import Release
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import deploy, finish, plan, roll_back, shift
from model_release.steps.context import Seen
from model_release.steps.serve import prove
from model_release.triton import config as configs
from model_release.triton import fleet as fleets
from model_release.triton.replica import key_header
from tests.sandbox.releasing import CHECKPOINTS, FIRST, SECOND, Clients, Model, await_true

PAIR = "default"


@dataclass(frozen=True)
class Reloads:
    """Seconds of reloads of one version, by turns: a bare call to one replica, and ours of all of a fleet's."""

    replicas: int
    bare_s: list[float] = field(default_factory=list)
    loaded_s: list[float] = field(default_factory=list)
    proved_s: list[float] = field(default_factory=list)

    def ratio(self, seconds: list[float]) -> float:
        """Return what ours took for each replica, beside a bare call."""
        return statistics.median(seconds) / (self.replicas * statistics.median(self.bare_s))


@dataclass
class Moves:
    """What was done under load, in how many seconds, and what clients saw of it."""

    done: list[tuple[str, float]] = field(default_factory=list)
    requests: int = 0
    errors: int = 0
    problems: list[str] = field(default_factory=list)


class Idle:
    """The stable version on the fleet that has no traffic; it is gone from there at the end of `with`."""

    def __init__(self, model: Model) -> None:
        stable = model.state.stable
        assert stable is not None
        self._model, self._version, self._environment = model, stable.version, model.environment
        self._fleet = "green" if stable.fleet == "blue" else "blue"
        self._sight = Seen(model.spec, self._environment, ObjectStore(self._environment.s3))
        self._archive = Archive(self._sight.store, model.name)
        self._prefix = ServingPrefix(self._sight.store, PAIR, self._fleet, model.name)
        self._delays = count(100)
        self._config: Any = None
        self.replicas = self._environment.pairs[PAIR].fleet(self._fleet)

    def __enter__(self) -> Idle:
        self._prefix.place(self._archive, self._archive.require(self._version), lambda: None)
        self.renew()
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        fleets.unload_everywhere(self.replicas, self._model.name, self._environment, check=lambda: None)
        self._prefix.delete(lambda: None)

    def renew(self) -> None:
        """Write a config that differs from the last, for which Triton loads the version anew."""
        self._config = configs.build_config(self._model.spec, self._version, configs.Tuning(next(self._delays)))
        self._prefix.write_config(configs.render(self._config, epoch=0), lambda: None)

    def call(self) -> None:
        """One load call to the first replica, and nothing else."""
        with InferenceServerClient(self.replicas.replicas[0].grpc) as client:
            client.load_model(self._model.name, headers=key_header(self._environment))

    def load(self) -> None:
        """Load it on every replica as a release does, and see that it is READY there alone."""
        fleets.load_everywhere(self.replicas, self._model.name, self._version, self._environment, check=lambda: None)

    def load_and_prove(self) -> None:
        """The same, with the proof of config and recorded answers."""
        self.load()
        prove(self._sight, self._fleet, self._archive.require(self._version), self._config)


def reloads(model: Model, rounds: int) -> Reloads:
    """Reload the stable version on the other fleet, so many times in each way; a config is written before the clock."""
    with Idle(model) as idle:
        found = Reloads(len(idle.replicas.replicas))
        for _ in range(rounds):
            for seconds, way in (
                (found.bare_s, idle.call),
                (found.loaded_s, idle.load),
                (found.proved_s, idle.load_and_prove),
            ):
                idle.renew()
                seconds.append(_timed(way))
    return found


def moves(model: Model, swaps: int, *, rate_per_s: float = 120) -> Moves:
    """Under clients: so many promoted versions after the first, a restore, and a canary that is rolled back."""
    found = Moves()
    with Clients(model, rate_per_s=rate_per_s) as clients:
        for number in range(1, swaps + 1):
            release = model.build(SECOND + number, checkpoint=CHECKPOINTS[(FIRST, SECOND)[number % 2]])
            _do(found, f"version {number + 1} built, canaried, promoted", model, release)
        _do(found, "the version before restored", model, model.restore(_standby(model)))
        started = time.monotonic()
        _roll_back(model, clients)
        found.done.append(("a canary with all of the traffic rolled back", time.monotonic() - started))
    found.requests, found.errors, found.problems = sum(clients.seen.values()), clients.failed(), clients.problems[:5]
    return found


def _do(found: Moves, what: str, model: Model, release: Release) -> None:
    found.done.append((what, _timed(lambda: model.release(release))))


def _roll_back(model: Model, clients: Clients) -> None:
    """Give the standby the traffic as a canary, and take it back."""
    release = model.restore(_standby(model), reason="to go back")
    plan.run(release, model.environment, model.spec)
    deploy.run(release, model.environment)
    shift.run(release, model.environment, 100)
    await_true(lambda: clients.seen[200, "canary", str(release.version)] > 20, "the canary answers")
    roll_back.run(release, model.environment, "to show it")
    with suppress(RolledBack):
        finish.run(release, model.environment)


def _standby(model: Model) -> int:
    standby = model.state.standby
    assert standby is not None
    return standby.version


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started

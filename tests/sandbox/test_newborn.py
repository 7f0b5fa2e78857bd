"""
A Triton that starts at any instant of a deploy or a removal serves the old or the new state, and the others always.

The deploys are the steps' own put_on and take_off, slowed before each of their writes; Tritons are started on the same
prefix again and again meanwhile, and each is asked what it serves once it has settled.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from model_release.environment import Environment
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.steps import serve
from model_release.triton import config as configs
from model_release.triton.bundle import build_bundle
from model_release.triton.replica import ReplicaClient
from tests.sandbox.chaos.faults import FaultyS3
from tests.sandbox.served_parts import FLEET, VERSION, Bench, graph, saved, spec, unclaimed
from tests.sandbox.triton_parts import Server, Tritons, await_true
from tests.sandbox.triton_parts import tritons as tritons

OLD, NEW = VERSION, VERSION + 1
SLOPES = {OLD: 2.0, NEW: 3.0}
SECONDS = 40.0
#: Until a newborn of either version was seen, which on a busy machine takes longer.
LONGEST_S = 300.0
_SETTLING = {"LOADING", "UNLOADING"}


@dataclass
class Served:
    """What the prefix says of a model, and since when; while it is changed, it may be either. None: no version."""

    changes: list[tuple[float, set[int | None]]] = field(default_factory=lambda: [(0.0, {None})])

    def may_become(self, version: int | None) -> None:
        self.changes.append((time.monotonic(), self.changes[-1][1] | {version}))

    def is_now(self, version: int | None) -> None:
        self.changes.append((time.monotonic(), {version}))

    def between(self, born: float, settled: float) -> set[int | None]:
        """Everything that the prefix may have said in this time."""
        ends = [began for began, _ in self.changes[1:]] + [float("inf")]
        states = list(zip(self.changes, ends, strict=True))
        return set().union(*(said for (began, said), ended in states if began <= settled and ended >= born))


@dataclass
class Deployer:
    """Brings one version after another onto the fleet, and takes the model off again, until it is stopped."""

    bench: Bench
    spec: ModelSpec
    sealed: dict[int, Manifest]
    says: Served = field(default_factory=Served)
    rounds: int = 0
    epoch: int = 0
    error: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._put_on(OLD)
                self._put_on(NEW)
                self.rounds += 1
                if self.rounds % 3 == 0:
                    self.says.may_become(None)
                    serve.take_off(self.step(), FLEET)
                    self.says.is_now(None)
        except BaseException as error:
            self.error = error

    def _put_on(self, version: int) -> None:
        self.says.may_become(version)
        serve.put_on(self.step(), FLEET, self.sealed[version], build_bundle(self.spec, version))
        self.says.is_now(version)

    def step(self) -> Any:
        """What put_on and take_off ask of a step: its claim is never lost."""
        self.epoch += 1
        bench, name = self.bench, self.spec.name
        return SimpleNamespace(
            model=name,
            release=SimpleNamespace(model=name),
            claim=SimpleNamespace(epoch=self.epoch),
            environment=bench.environment,
            store=bench.store,
            archive=Archive(bench.store, name),
            pair=bench.environment.pair("default"),
            prefix=lambda fleet: bench.prefix(name),
            signatures=SimpleNamespace(require=lambda manifest: None),
            check=lambda: time.sleep(random.uniform(0, 0.25)),
        )


def line(bench: Bench, name: str, version: int) -> tuple[ModelSpec, Manifest]:
    """Seal y = slope * x, another slope for each version."""
    tensor = {"dtype": "float32", "shape": [4]}
    made = spec(name, [{"name": "x", **tensor}], [{"name": "y", **tensor}])
    model = graph(
        [helper.make_node("Mul", ["x", "slope"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
        slope=np.float32(SLOPES[version]),
    )
    files = saved(model, bench.folder / f"{name}-{version}", several=False)
    return made, bench.seal(made, files, {"input__x": np.ones((1, 4), np.float32)}, version)


@pytest.fixture
def bench(environment: Environment, tmp_path: Path) -> Bench:
    return Bench(ObjectStore(environment.s3), environment, tmp_path)


@pytest.fixture
def deployer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployer]:
    """A model in turmoil; the proof by recorded samples is not what this is about."""
    monkeypatch.setattr(serve, "prove", lambda *_: [])
    name = f"born_{uuid.uuid4().hex[:8]}"
    made, old = line(bench, name, OLD)
    _, new = line(bench, name, NEW)
    yield Deployer(bench, made, {OLD: old, NEW: new})
    bench.clear(name)


@pytest.fixture
def steady(bench: Bench) -> Iterator[str]:
    """A model on the same prefix that nobody touches."""
    name = f"steady_{uuid.uuid4().hex[:8]}"
    bench.serve(*line(bench, name, OLD))
    yield name
    bench.clear(name)


def served_by(server: Server, tritons: Tritons, model: str) -> int | None:
    """What a newborn serves of a model once it has settled: its config, its version and its answers are of one."""
    with ReplicaClient(server.replica, tritons.environment) as client:
        await_true(lambda: all(each.state not in _SETTLING for each in client.index(model)), 20)
        ready = [each.version for each in client.index(model) if each.state == "READY"]
        assert len(ready) <= 1, f"{server.name} serves {ready}"
        if not ready:
            assert not client.ready(model)
            return None
        [version] = ready
        assert version is not None
        assert list(client.config(model).version_policy.specific.versions) == [version]
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        answer = client.infer(model, {"x": x})["y"]
        assert np.array_equal(answer, SLOPES[version] * x), f"{server.name} serves {version} with another's weights"
        return version


def test_a_newborn_serves_the_old_or_the_new_state_and_the_other_models_always(
    tritons: Tritons, deployer: Deployer, steady: str
) -> None:
    stop, prefix = threading.Event(), f"serving/default/{FLEET}"
    thread = threading.Thread(target=deployer.run, args=(stop,))
    thread.start()
    seen: Counter[int | None] = Counter()
    problems = []
    try:
        began = time.monotonic()
        while time.monotonic() < began + SECONDS or not {OLD, NEW} <= set(seen):
            assert time.monotonic() < began + LONGEST_S, f"{seen} in {deployer.rounds} rounds, and {deployer.error!r}"
            born = time.monotonic()
            newborn = tritons.start(f"newborn-{sum(seen.values())}", prefix)
            try:
                version = served_by(newborn, tritons, deployer.spec.name)
                allowed = deployer.says.between(born, time.monotonic())
                if version not in allowed:
                    problems.append(f"{newborn.name} serves {version}, the prefix said {allowed}: {newborn.log}")
                assert served_by(newborn, tritons, steady) == OLD
            finally:
                newborn.kill()
            seen[version] += 1
    finally:
        stop.set()
        thread.join()
    assert deployer.error is None, repr(deployer.error)
    assert problems == [], f"{seen} in {deployer.rounds} rounds: {problems}"


@pytest.mark.parametrize("at", [f"{OLD}/model.onnx", f"{OLD}"], ids=["file", "folder"])
def test_a_newborn_whose_download_meets_the_deletion_of_the_version_before_serves(
    tritons: Tritons, bench: Bench, at: str
) -> None:
    """Triton downloads every version that it finds in the folder, not only those that its config names."""
    name = f"met_{uuid.uuid4().hex[:8]}"
    made, old = line(bench, name, OLD)
    _, new = line(bench, name, NEW)
    bench.serve(made, old)
    prefix, log = bench.prefix(name), tritons.folder / f"{name}-newborn.log"
    prefix.place(Archive(bench.store, name), new, unclaimed)
    prefix.write_config(configs.render(configs.build_config(made, NEW), epoch=2), unclaimed)

    def delete_what_is_asked_for(_: str, path: str) -> None:
        if at in path and OLD in prefix.versions() and f"loading: {name}" in log.read_text():
            prefix.keep_only(NEW, unclaimed)

    wire = FaultyS3(tritons.endpoint, delete_what_is_asked_for)
    try:
        newborn = tritons.start(f"{name}-newborn", f"serving/default/{FLEET}", endpoint=wire.url)
        assert served_by(newborn, tritons, name) == NEW, newborn.log.read_text()
        assert f"failed to load '{name}' version {NEW}" in newborn.log.read_text(), "the download met no deletion"
    finally:
        wire.close()
        bench.clear(name)

"""A Triton that starts at any instant of an ensemble's deploy or removal has the old whole, the new one, or none."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_release.environment import Environment
from model_release.repository.store import ObjectStore
from model_release.steps import serve
from model_release.triton.bundle import build_bundle
from model_release.triton.replica import ReplicaClient
from tests.sandbox import ensemble_parts
from tests.sandbox.served_parts import FLEET, Bench
from tests.sandbox.test_newborn import LONGEST_S, NEW, OLD, Deployer
from tests.sandbox.triton_parts import Server, Tritons, await_true
from tests.sandbox.triton_parts import tritons as tritons

NUMBERS = {OLD: 1, NEW: 2}
SECONDS = 15.0
_SETTLING = {"LOADING", "UNLOADING"}


@pytest.fixture
def deployer(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployer]:
    monkeypatch.setattr(serve, "prove", lambda *_: [])
    bench = Bench(ObjectStore(environment.s3), environment, tmp_path)
    made = ensemble_parts.spec(f"whole_{uuid.uuid4().hex[:8]}")
    sealed = {version: ensemble_parts.seal(bench, made, version, number) for version, number in NUMBERS.items()}
    yield Deployer(bench, made, sealed)
    bench.clear(made.name)


def served_by(server: Server, tritons: Tritons, model: str) -> int | None:
    """The version that a newborn serves once it has settled; its parts are of that version, by what they answer."""
    with ReplicaClient(server.replica, tritons.environment) as client:
        await_true(lambda: all(each.state not in _SETTLING for each in client.index()), 30)
        ready = [each.version for each in client.index(model) if each.state == "READY"]
        if not ready:
            return None
        [version] = ready
        assert version is not None
        answers = client.infer(model, {"text": np.array(["one", "two"])})["label"]
        number = NUMBERS[version]
        assert set(answers.ravel()) == {f"{number}-{number}"}, f"{server.name} serves {version} with others' parts"
        return version


def test_a_part_with_other_tensors_takes_the_place_of_the_version_before(deployer: Deployer) -> None:
    """Under its config the version before could not be loaded beside it."""
    bench, name = deployer.bench, deployer.spec.name
    wider = ensemble_parts.spec(name, twice=True)
    deployer.sealed[NEW + 1] = ensemble_parts.seal(bench, wider, NEW + 1, 3)
    for spec, version in ((deployer.spec, OLD), (wider, NEW + 1), (deployer.spec, NEW)):
        serve.put_on(deployer.step(), FLEET, deployer.sealed[version], build_bundle(spec, version))
        for replica in bench.environment.pair("default").fleet(FLEET).replicas:
            with ReplicaClient(replica, bench.environment) as client:
                answers = client.infer(name, {"text": np.array(["one", "two"])})["label"]
                number = {**NUMBERS, NEW + 1: 3}[version]
                assert set(answers.ravel()) == {f"{number}-{number}"}
                versions = {each.version for part in client.triton_models(name) for each in client.statistics(part)}
                assert versions == {version}


def test_a_newborn_never_has_parts_of_two_versions(tritons: Tritons, deployer: Deployer) -> None:
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
            finally:
                newborn.kill()
            seen[version] += 1
    finally:
        stop.set()
        thread.join()
    assert deployer.error is None, repr(deployer.error)
    assert problems == [], f"{seen} in {deployer.rounds} rounds: {problems}"

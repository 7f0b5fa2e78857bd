"""An ensemble through its whole life: built, canaried, restored, healed and removed, always with all of its parts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from example_models import text_training
from model_release.environment import Environment
from model_release.identity import Kind, Release
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import deploy, guard, plan, roll_back
from model_release.triton.replica import ReplicaClient
from sandbox.traffic import http_body
from tests.sandbox import ensemble_parts
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, one_stage, remove

QUICK: dict[str, Any] = {
    "canary": {"stages": [50, 100], "warmup_s": 0, "min_bake_s": 1, "look_interval_s": 0.5, "min_requests": 15}
    | {"hold_s": 0, "gates": [{"name": "errors", "kind": "error_rate", "margin": 0.5}]},
    "benchmark": {"objective": {"p99_ms": 5000}, "concurrency": [2], "budget_s": 4, "max_slowdown": 50}
    | {"search": {"max_queue_delay_microseconds": [0]}},
}
TEXTS = ["one", "a longer text", "\u6771\u4eac"]


@pytest.fixture
def whole(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.syspath_prepend(str(include))
    made = Model(ensemble_parts.spec(f"whole_{uuid.uuid4().hex[:8]}", **QUICK), environment)
    yield made
    remove(made)


def build(model: Model, version: int, include: Path, number: int) -> Release:
    """A release of a version whose parts in Python tell a number."""
    ensemble_parts.write_scripts(include, number)
    ensemble_parts.put_checkpoint(model.environment, version)
    return Release(model.name, version, Kind.BUILD, f"run-{version}", by="tests")


def labels(model: Model, fleet: str) -> list[set[str]]:
    """What each replica of a fleet answers."""
    found = []
    for replica in model.environment.pairs["default"].fleet(fleet).replicas:
        with ReplicaClient(replica, model.environment) as client:
            found.append(set(client.infer(model.name, {"text": np.array(TEXTS)})["label"].ravel()))
    return found


def folders(model: Model, fleet: str) -> list[str]:
    names = ObjectStore(model.environment.s3).folders(f"serving/default/{fleet}/")
    here = [name for name in names if name.startswith(model.name)]
    return [name for name in here if not ServingPrefix(store(model), "default", fleet, name).is_empty()]


def store(model: Model) -> ObjectStore:
    return ObjectStore(model.environment.s3)


def test_it_lives_and_goes_as_a_whole(whole: Model, tmp_path: Path) -> None:
    bodies = [http_body({"text": np.array([text])[:, None]}) for text in TEXTS]
    parts = [whole.name, *(f"{whole.name}__{part}" for part in ("end", "model", "start"))]
    with Clients(whole, bodies, rate_per_s=25) as clients:
        whole.release(build(whole, FIRST, tmp_path / "include", 1))
        before = clients.failed()
        whole.release(build(whole, SECOND, tmp_path / "include", 2))
        state = whole.state
        assert state.stable
        assert state.standby
        assert (labels(whole, state.stable.fleet), labels(whole, state.standby.fleet)) == ([{"2-2"}] * 2, [{"1-1"}] * 2)
        whole.release(whole.restore(FIRST))
        assert "reused_standby" in str(whole.told), "the version before was still loaded, and all of it"

        stable = whole.state.stable
        assert stable
        replica = whole.environment.pairs["default"].fleet(stable.fleet).replicas[1]
        with ReplicaClient(replica, whole.environment) as client:
            client.unload(f"{whole.name}__end")
            assert not client.ready(whole.name), "an ensemble goes with its part"
        done = guard.run(whole.environment, [whole.name])
        assert [each["act"].split(":")[0] for each in done.healed] == [f"{replica.name} loaded stable {FIRST} again"]
        assert labels(whole, stable.fleet) == [{"1-1"}] * 2
        assert clients.failed() - before <= 25, (
            "while a part was gone from one of two replicas, and for no other reason"
        )
    assert clients.by_version().keys() == {str(FIRST), str(SECOND)}
    sealed = Archive(store(whole), whole.name).require(FIRST).files
    assert {"parts.json", "parts/start/model.py", "parts/model/model.onnx", "parts/end/config.pbtxt"} <= set(sealed)

    again = whole.restore(SECOND, "to be taken off again")
    plan.run(again, whole.environment, whole.spec)
    fleet = deploy.run(again, whole.environment)["fleet"]
    assert folders(whole, fleet) == sorted(parts)
    roll_back.run(again, whole.environment, "the test says so")
    assert folders(whole, fleet) == []
    for replica in whole.environment.pairs["default"].fleet(fleet).replicas:
        with ReplicaClient(replica, whole.environment) as client:
            assert not any(client.ready(name) for name in parts)
    assert folders(whole, stable.fleet) == sorted(parts)


@pytest.fixture
def example(environment: Environment) -> Iterator[Model]:
    text_training.publish_texts(environment)
    made = Model(one_stage("ensemble_pipeline", f"pipeline_{uuid.uuid4().hex[:8]}"), environment)
    yield made
    remove(made)


def test_the_example_reads_raw_texts(example: Model) -> None:
    texts = ["@united thank you so much, best flight ever!", "worst delay ever, I hate this, lost my bag again"]
    uri = text_training.retrain_text("2026-01-01", example.environment)["uri"]
    with Clients(example, [http_body({"text": np.array([text])[:, None]}) for text in texts], rate_per_s=20) as clients:
        example.release(Release(example.name, FIRST, Kind.BUILD, "run-1", checkpoint=uri, by="tests"))
    assert clients.by_version().keys() == {str(FIRST)}
    stable = example.state.stable
    assert stable
    for replica in example.environment.pairs["default"].fleet(stable.fleet).replicas:
        with ReplicaClient(replica, example.environment) as client:
            answer = client.infer(example.name, {"text": np.array(texts)})
            assert list(answer["label"].ravel()) == ["positive", "negative"]
            assert (answer["score"] > 0.5).all()

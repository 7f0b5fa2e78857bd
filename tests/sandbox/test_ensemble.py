"""An ensemble through its whole life: built, canaried, restored, healed and removed, always with all of its parts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from example_models import text_training
from model_release.environment import Environment
from model_release.errors import ContractBroken, ReleaseError
from model_release.identity import Kind, Release
from model_release.repository.archive import Archive
from model_release.repository.manifest import digest_of
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.steps import deploy, export, finish, guard, import_version, plan, publish, roll_back, validate
from model_release.steps.context import Seen
from model_release.steps.serve import sealed_bundle
from model_release.triton.replica import ReplicaClient
from sandbox.traffic import http_body
from tests.sandbox import ensemble_parts
from tests.sandbox.releasing import FIRST, QUICK_ENSEMBLE, SECOND, Clients, Model, await_true, moved, one_stage, remove
from tests.sandbox.round_trip import unlike

#: A build of a date before the last restore would be stale.
LATER = 20991231000000


@pytest.fixture
def whole(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.syspath_prepend(str(include))
    made = Model(ensemble_parts.spec(f"whole_{uuid.uuid4().hex[:8]}", **QUICK_ENSEMBLE), environment)
    yield made
    remove(made)


def labels(model: Model, fleet: str, output: str = "label") -> list[set[str]]:
    """What each replica of a fleet answers."""
    found = []
    for replica in model.environment.pairs["default"].fleet(fleet).replicas:
        with ReplicaClient(replica, model.environment) as client:
            found.append(set(client.infer(model.name, {"text": np.array(ensemble_parts.TEXTS)})[output].ravel()))
    return found


def folders(model: Model, fleet: str) -> list[str]:
    names = ObjectStore(model.environment.s3).folders(f"serving/default/{fleet}/")
    here = [name for name in names if name.startswith(model.name)]
    return [name for name in here if not ServingPrefix(store(model), "default", fleet, name).is_empty()]


def store(model: Model) -> ObjectStore:
    return ObjectStore(model.environment.s3)


def test_it_lives_and_goes_as_a_whole(whole: Model, tmp_path: Path) -> None:
    bodies = ensemble_parts.bodies()
    parts = [whole.name, *(f"{whole.name}__{part}" for part in ("end", "model", "start"))]
    with Clients(whole, bodies, rate_per_s=25) as clients:
        whole.release(ensemble_parts.build(whole, FIRST, tmp_path / "include", 1))
        before = clients.failed()
        whole.release(ensemble_parts.build(whole, SECOND, tmp_path / "include", 2))
        state = whole.state
        assert state.stable
        assert state.standby
        assert (labels(whole, state.stable.fleet), labels(whole, state.standby.fleet)) == ([{"2-2"}] * 2, [{"1-1"}] * 2)
        whole.release(whole.restore(FIRST))
        assert "reused_standby" in str(whole.told), "the version before was still loaded, and all of it"

        stable = whole.state.stable
        assert stable
        replica = whole.environment.pairs["default"].fleet(stable.fleet).replicas[1]
        assert clients.failed() == before, clients.problems[:3]
        with ReplicaClient(replica, whole.environment) as client:
            client.unload(f"{whole.name}__end")
            assert not client.ready(whole.name), "an ensemble goes with its part"
        done = guard.run(whole.environment, [whole.name])
        assert [each["act"].split(":")[0] for each in done.healed] == [f"{replica.name} loaded stable {FIRST} again"]
        assert labels(whole, stable.fleet) == [{"1-1"}] * 2
        healed = clients.failed()  # of requests while a part was gone from one of two replicas
        asked = sum(clients.by_version().values())
        await_true(lambda: sum(clients.by_version().values()) > asked + 50, "clients are answered")
        assert clients.failed() == healed, clients.problems[-3:]
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


def test_it_is_brought_from_elsewhere_whole_and_served_beside_under_a_raised_contract(
    whole: Model, tmp_path: Path
) -> None:
    """Built in one place, whose archive and ledger are then another's; the next version calls its output otherwise."""
    asked = ensemble_parts.build(whole, FIRST, tmp_path / "include", 1)
    plan.run(asked, whole.environment, whole.spec)
    for step in (export, validate, publish):
        step.run(asked, whole.environment)
    staging = whole.environment.model_copy(
        update={"s3": whole.environment.s3.model_copy(update={"prefix": f"tests/staging-{whole.name}"})}
    )
    moved(store(whole), ObjectStore(staging.s3), [f"archive/{whole.name}/", f"ledger/{whole.name}/"])
    found = Archive(ObjectStore(staging.s3), whole.name).seal_of(FIRST, "base")
    assert found
    digest = digest_of({"base": found[0]})
    import_version.run(whole.name, FIRST, digest, staging, whole.environment, run_id="import-1")
    bodies = ensemble_parts.bodies()
    with Clients(whole, bodies, rate_per_s=25):
        whole.release(whole.restore(FIRST))
    assert whole.state.stable
    assert labels(whole, whole.state.stable.fleet) == [{"1-1"}] * 2

    values = whole.spec.model_dump(mode="json")
    values["outputs"][0]["name"] = values["serving"]["ensemble"]["steps"][2]["outputs"]["label"] = "word"
    renamed = ModelSpec.model_validate(values)
    second = ensemble_parts.build(whole, LATER, tmp_path / "include", 2)
    with pytest.raises(ContractBroken, match=r"output 'label' is gone"):
        plan.run(second, whole.environment, renamed)
    with suppress(ReleaseError):
        finish.run(second, whole.environment)
    raised = renamed.model_copy(update={"contract": 2})
    beside = Model(raised.served_as(raised.served_name), whole.environment)
    try:
        with Clients(whole, bodies, rate_per_s=25) as clients, Clients(beside, bodies, rate_per_s=25):
            beside.release(ensemble_parts.build(beside, LATER, tmp_path / "include", 2))
            assert beside.state.stable
            assert labels(beside, beside.state.stable.fleet, "word") == [{"2-2"}] * 2
        assert (clients.failed(), set(clients.by_version())) == (0, {str(FIRST)}), clients.problems[:3]
    finally:
        remove(beside)


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
            sealed = sealed_bundle(Seen(example.spec, example.environment, store(example)), FIRST)
            assert set(sealed.parts) == set(
                example.spec.serving.ensemble.parts if example.spec.serving.ensemble else ()
            )
            for asked in sealed.by_part.values():
                assert unlike(asked, client.config(asked.name)) == []

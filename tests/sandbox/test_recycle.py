"""Replicas that a load has left unwell are started anew, one at a time, while clients go on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from model_release.environment import Environment, NoRecycler, Replica
from model_release.errors import LoadFailed, RecycleFailed, ReleaseError
from model_release.identity import Kind, Release
from model_release.ledger.events import Events
from model_release.ledger.state import Placement, StateFile
from model_release.ledger.turn import Turns, TurnTaken
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, deploy, export, finish, guard, plan, publish, roll_back, validate
from model_release.steps.context import Step, begin
from model_release.steps.recycle import recycle
from model_release.triton.poison import poison_of
from model_release.triton.recycler import connect
from model_release.triton.replica import ReplicaClient, key_header
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model, await_true, forget, quick_spec, remove
from tests.sandbox.shelf import Shelf

#: A model of the Python backend that never gets loaded.
ENDLESS = b"import time\n\n\nclass TritonPythonModel:\n    def initialize(self, args):\n        time.sleep(3600)\n"


@pytest.fixture(scope="module")
def served(trained: Sandbox, shelf: Shelf) -> Iterator[Model]:
    """
    FIRST is stable on blue; a replica has a second to end by itself.

    What tests before left in the ledger is forgotten, since a replica is spared for the sake of every model there.
    """
    recycler = trained.environment.recycler.model_copy(update={"stop_s": 1})
    hasty = trained.environment.model_copy(update={"load_timeout_s": 20.0, "recycler": recycler})
    store = ObjectStore(hasty.s3)
    for left in store.folders("ledger/"):
        forget(store, left)
    made = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), hasty)
    shelf.seal(made, [FIRST])
    with Clients(made):
        made.release(made.build(FIRST))
    yield made
    remove(made)


def replicas(model: Model, fleet: str) -> list[Replica]:
    return model.environment.pairs["default"].fleet(fleet).replicas


def hang(model: Model, replica: Replica) -> None:
    """Have a replica load something that never ends, in the model's place."""
    config = {"name": model.name, "backend": "python", "max_batch_size": 0, "default_model_filename": "model.py"}
    tensor = [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]
    told = {**config, "input": tensor, "output": [{**tensor[0], "name": "y"}]}
    with InferenceServerClient(replica.grpc) as client:
        headers = key_header(model.environment)
        client.unload_model(model.name, headers=headers)
        with suppress(InferenceServerException):
            client.load_model(
                model.name,
                headers=headers,
                config=json.dumps(told),
                files={f"file:{FIRST}/model.py": ENDLESS},
                client_timeout=3,
            )
    said = f"{model.name} version {FIRST} stays LOADING"
    await_true(lambda: poison_of(replica, model.name, model.environment) == said, said)


class Patient:
    """The environment's recycler; it returns once the replica is live again, as the time for that is no question."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def recycle(self, replica: Replica) -> None:
        connect(self._environment).recycle(replica)
        with ReplicaClient(replica, self._environment) as client:
            await_true(client.live, f"{replica.name} is live again")


@contextmanager
def without_disk(sandbox: Sandbox, replica: Replica) -> Iterator[None]:
    """Let a replica have no folder to download to."""
    folder: Path = sandbox.home.triton / "models" / replica.name
    aside = folder.rename(folder.with_name(f"{replica.name}-aside"))
    folder.write_text("no folder")
    try:
        yield
    finally:
        # Triton deletes the folder above a download that it does not find any more.
        folder.unlink(missing_ok=True)
        aside.rename(folder)


def told(model: Model, what: str) -> list[dict[str, Any]]:
    return [event for event in Events(ObjectStore(model.environment.s3), model.name).read() if event["what"] == what]


@contextmanager
def claimed(model: Model) -> Iterator[Step]:
    """Have the model's claim, as the guard has."""
    state = model.state
    assert state.release is not None
    holder = Release(model.name, FIRST, Kind.BUILD, f"guard-{uuid.uuid4().hex[:8]}", by="guard")
    with begin(holder, model.environment, "heal", begins=True) as step:
        try:
            yield replace(step, spec_digest=state.release.spec_digest)
        finally:
            step.update(claim=None)


def test_the_guard_recycles_a_replica_whose_load_of_stable_hangs(sandbox: Sandbox, served: Model) -> None:
    sick, before = replicas(served, "blue")[1], sandbox.triton_pids()
    hasty = served.environment.model_copy(update={"load_timeout_s": 2.0})
    with Clients(served) as clients:
        hang(served, sick)
        done = guard.run(hasty, [served.name])
        answered = sum(clients.seen.values())
        await_true(lambda: sum(clients.seen.values()) > answered + 20, "clients ask afterwards")
    after = sandbox.triton_pids()
    assert {name for name in before if after[name] != before[name]} == {sick.name}
    assert poison_of(sick, served.name, served.environment) is None
    with ReplicaClient(sick, served.environment) as client:
        assert client.ready(served.name, FIRST)
    assert [each["act"] for each in done.healed] == [f"{FIRST} on blue: a load was not enough"], done
    assert [event["replica"] for event in told(served, "recycled")] == [sick.name]
    assert clients.failed() == 0, clients.problems[:3]
    assert guard.run(served.environment, [served.name]) == guard.Round()


def test_a_replica_that_stays_ill_costs_its_neighbours_nothing(sandbox: Sandbox, served: Model) -> None:
    """Without a recycler nobody ends it, and the guard looks at it again and again."""
    well, sick = replicas(served, "blue")
    alone = served.environment.model_copy(update={"load_timeout_s": 2.0, "recycler": NoRecycler()})
    store = ObjectStore(alone.s3)
    files = {entry.key: entry.last_modified for entry in store.objects(f"serving/default/blue/{served.name}/{FIRST}/")}
    try:
        with Clients(served) as clients, ReplicaClient(well, alone) as client:
            await_true(lambda: client.statistics(served.name)[0].succeeded > 20, "it is asked")
            answered = client.statistics(served.name)[0].succeeded
            hang(served, sick)
            rounds = [guard.run(alone, [served.name]) for _ in range(2)]
            assert client.statistics(served.name)[0].succeeded >= answered, "it was loaded anew"
    finally:
        with claimed(served) as step:
            recycle(step, "blue", sick, "the test is over")
    assert clients.failed() == 0, clients.problems[:3]
    assert all(sick.name in each.problems[0] for each in rounds)
    [event] = told(served, "not mended")
    assert f"{sick.name} was not recycled" in event["reason"]
    assert {entry.key: entry.last_modified for entry in store.objects("serving/") if entry.key in files} == files


def test_a_replica_that_failed_to_load_the_canary_is_recycled_by_the_rollback(sandbox: Sandbox, served: Model) -> None:
    sick, before, release = replicas(served, "green")[0], sandbox.triton_pids(), served.build(SECOND, benchmark=False)
    plan.run(release, served.environment, served.spec)
    for step in (export, validate, publish):
        step.run(release, served.environment)
    with Clients(served) as clients, without_disk(sandbox, sick):
        with pytest.raises(LoadFailed, match=sick.name):
            deploy.run(release, served.environment)
        poison = poison_of(sick, served.name, served.environment)
        assert poison is not None
        assert f"{SECOND} failed to load" in poison
        result = roll_back.run(release, served.environment, "it did not load")
        with pytest.raises(ReleaseError):
            finish.run(release, served.environment)
    assert result["problems"] == []
    after = sandbox.triton_pids()
    assert {name for name in before if after[name] != before[name]} == {sick.name}
    event = told(served, "recycled")[-1]
    assert (event["replica"], event["fleet"]) == (sick.name, "green")
    with ReplicaClient(sick, served.environment) as client:
        assert client.index() == []
    assert clients.failed() == 0, clients.problems[:3]
    assert (served.state.canary, served.state.stable.fleet if served.state.stable else "") == (None, "blue")


def test_a_load_that_fails_on_bench_touches_no_fleet_and_leaves_bench_well(sandbox: Sandbox, served: Model) -> None:
    bench, before, release = replicas(served, "bench")[0], sandbox.triton_pids(), served.build(BROKEN)
    plan.run(release, served.environment, served.spec)
    for step in (export, validate, publish):
        step.run(release, served.environment)
    objects = ObjectStore(served.environment.s3).objects
    fleets = ("serving/default/blue/", "serving/default/green/")
    lay = [(entry.key, entry.etag) for prefix in fleets for entry in objects(prefix)]
    with without_disk(sandbox, bench), pytest.raises(LoadFailed, match=bench.name):
        benchmark.run(release, served.environment)
    with pytest.raises(ReleaseError):
        finish.run(release, served.environment)
    assert [(entry.key, entry.etag) for prefix in fleets for entry in objects(prefix)] == lay
    after = sandbox.triton_pids()
    assert {name for name in before if after[name] != before[name]} == {bench.name}
    assert (told(served, "recycled")[-1]["fleet"], served.state.canary) == ("bench", None)


def test_the_last_replica_that_is_ready_for_a_model_with_weight_is_never_recycled(
    sandbox: Sandbox, served: Model
) -> None:
    last, other = replicas(served, "blue")
    before = sandbox.triton_pids()
    with claimed(served) as step:
        with ReplicaClient(other, served.environment) as client:
            client.unload(served.name)
            await_true(lambda: not client.ready(served.name), "it is unloaded")
        with pytest.raises(RecycleFailed, match=f"{last.name}.*last one of blue ready for {served.name}"):
            recycle(step, "blue", last, "a test asks for it")
        recycle(step, "blue", other, "a test asks for it")
        with Clients(served) as clients:
            await_true(lambda: sum(clients.seen.values()) > 20, "both are asked")
            recycle(step, "blue", other, "a test asks for it")
        assert clients.failed() == 0, clients.problems[:3]
        with pytest.raises(RecycleFailed, match=r"already at .* that did not help"):
            recycle(step, "blue", other, "a test asks for it again", again_after_s=600)
        text = step.prefix("blue").config()
        step.store.delete(f"serving/default/blue/{served.name}/config.pbtxt")
        with pytest.raises(RecycleFailed, match="would come back without"):
            recycle(step, "blue", last, "a test asks for it")
        step.prefix("blue").write_config(text or "", step.check)
    after = sandbox.triton_pids()
    assert {name for name in before if after[name] != before[name]} == {other.name}


def test_a_replica_that_does_not_come_back_is_named_and_no_other_is_ended(
    sandbox: Sandbox, served: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (last, other), before = replicas(served, "blue"), sandbox.triton_pids()
    hasty = served.environment.model_copy(update={"load_timeout_s": 2.0})
    monkeypatch.setattr("model_release.steps.recycle._START_S", 2)
    monkeypatch.setattr("model_release.steps.recycle.connect", Patient)
    with Clients(served) as clients, claimed(served) as claim:
        step = replace(claim, environment=hasty)
        with without_disk(sandbox, other):
            with pytest.raises(RecycleFailed, match=f"{other.name}.*after 4 s it is not ready for {served.name}"):
                recycle(step, "blue", other, "a test asks for it")
            with pytest.raises(RecycleFailed, match=f"{last.name}.*last one of blue"):
                recycle(step, "blue", last, "a test asks for it")
    after = sandbox.triton_pids()
    assert {name for name in before if after[name] != before[name]} == {other.name}
    done = guard.run(served.environment, [served.name])
    assert [each["act"].split(":")[0] for each in done.healed] == [f"{other.name} loaded stable {FIRST} again"]
    assert clients.failed() == 0, clients.problems[:3]


def test_a_fleet_at_which_another_models_release_is_at_work_is_left_alone(sandbox: Sandbox, served: Model) -> None:
    before, busy = sandbox.triton_pids(), Model(quick_spec(f"busy_{uuid.uuid4().hex[:8]}"), served.environment)
    plan.run(busy.build(FIRST), busy.environment, busy.spec)
    file = StateFile(ObjectStore(busy.environment.s3), busy.name)
    phase = {"phase": "benchmark"}
    canary = Placement(fleet="green", version=FIRST, digest="0" * 64)
    file.change(
        lambda state: state.model_copy(
            update={"canary": canary, "claim": state.claim.model_copy(update=phase) if state.claim else None}
        )
    )
    with claimed(served) as step:
        for fleet in ("bench", "green"):
            with pytest.raises(RecycleFailed, match=f"a release of {busy.name} is at work on {fleet}"):
                recycle(step, fleet, replicas(served, fleet)[0], "a test asks for it")
    file.change(lambda state: state.model_copy(update={"canary": None, "claim": None}))
    assert sandbox.triton_pids() == before


def test_one_replica_of_a_fleet_is_down_at_a_time(served: Model, environment: Environment) -> None:
    turns = Turns(ObjectStore(environment.s3), "default", f"test-{uuid.uuid4().hex[:8]}")
    with (
        turns.turn("first", "r-0", lasts_s=60, wait_s=0),
        pytest.raises(TurnTaken, match="first"),
        turns.turn("second", "r-1", lasts_s=60, wait_s=0),
    ):
        pytest.fail("both have the turn")
    with turns.turn("second", "r-1", lasts_s=-1, wait_s=0), turns.turn("third", "r-2", lasts_s=60, wait_s=0):
        pass  # the second's time was over
    with turns.turn("dead", "r-3", lasts_s=60, wait_s=0), turns.turn("dead", "r-3", lasts_s=60, wait_s=0):
        pass  # and ran again
    assert [turns.last_recycled(name) is not None for name in ("r-0", "r-1", "r-2")] == [True, False, True]


def test_without_a_recycler_the_rollback_says_what_is_left_to_do(served: Model) -> None:
    alone = served.environment.model_copy(update={"recycler": NoRecycler()})
    with claimed(served) as step:
        without = replace(step, environment=alone)
        with pytest.raises(RecycleFailed, match=r"environment names no recycler.*by hand"):
            recycle(without, "bench", replicas(served, "bench")[0], "a test asks for it")

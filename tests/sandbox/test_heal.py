"""While a guard looks, what serves is what the ledger says: on the router, in the prefixes, on each replica."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc import InferenceServerClient

from model_release.errors import ProofFailed, ReleaseError
from model_release.ledger.events import Events
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import abort, deploy, export, finish, guard, plan, publish, roll_back, shift, validate, watch
from model_release.steps.context import Seen, read_frozen_spec
from model_release.steps.serve import prove, sealed_config
from model_release.traffic import connect
from model_release.traffic.router import Route
from model_release.triton import config as configs
from model_release.triton.replica import ReplicaClient, key_header
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model, await_true, quick_spec, remove
from tests.sandbox.shelf import Shelf

LEASE_S = 6


@pytest.fixture(scope="module")
def served(trained: Sandbox, shelf: Shelf) -> Iterator[Model]:
    """SECOND is stable on green, FIRST is standby on blue; every test leaves it so."""
    made = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), trained.environment)
    shelf.seal(made, [FIRST, SECOND])
    with Clients(made):
        made.release(made.build(FIRST))
        made.release(made.build(SECOND))
    yield made
    remove(made)


def store(model: Model) -> ObjectStore:
    return ObjectStore(model.environment.s3)


def look(model: Model) -> guard.Round:
    return guard.run(model.environment, [model.name])


def route(model: Model) -> Route:
    found = connect(model.environment).read(model.name)
    assert found is not None
    return found


def sight(model: Model) -> Seen:
    assert model.state.release is not None
    spec = read_frozen_spec(store(model), model.name, model.state.release.spec_digest)
    return Seen(spec, model.environment, store(model))


def prefix(model: Model, fleet: str) -> ServingPrefix:
    return ServingPrefix(store(model), "default", fleet, model.name)


def replica(model: Model, fleet: str, number: int) -> ReplicaClient:
    return ReplicaClient(model.environment.pairs["default"].fleet(fleet).replicas[number], model.environment)


def prove_stable(model: Model) -> None:
    seen, placed = sight(model), model.state.stable
    assert placed is not None
    prove(seen, placed.fleet, seen.archive.require(placed.version), sealed_config(seen, placed.version))


def told(model: Model, what: str) -> list[dict[str, Any]]:
    return [event for event in Events(store(model), model.name).read() if event["what"] == what]


def test_what_is_right_is_left_alone(served: Model) -> None:
    before, events = served.state, len(Events(store(served), served.name).read())
    assert look(served) == guard.Round()
    assert served.state == before
    assert len(Events(store(served), served.name).read()) == events


def test_a_replica_that_lost_stable_loads_it_again_while_another_release_has_the_claim(served: Model) -> None:
    plan.run(served.build(BROKEN), served.environment, served.spec)
    before = served.state
    assert before.claim is not None
    with Clients(served) as clients:
        with replica(served, "green", 1) as client:
            client.unload(served.name)  # as a step does that was paused before the call and wakes up too late
            await_true(lambda: not client.ready(served.name), "it is unloaded")
        answered = sum(clients.seen.values())
        await_true(lambda: sum(clients.seen.values()) > answered + 20, "clients ask meanwhile")
        done = look(served)
    prove_stable(served)
    assert clients.failed() == 0, clients.problems[:3]
    assert [each["act"].split(":")[0] for each in done.healed] == [f"triton-green-1 loaded stable {SECOND} again"]
    assert done.problems == []
    assert served.state.claim == before.claim, "the release's claim is its own"
    assert told(served, "healed")[-1]["by"] == "guard"
    abort_plan(served)


def abort_plan(model: Model) -> None:
    """End a release that was only planned."""
    with pytest.raises(ReleaseError):
        finish.run(model.build(BROKEN), model.environment)
    assert model.state.claim is None


def test_a_replica_with_another_config_is_made_to_read_the_sealed_one(served: Model) -> None:
    begun = store(served).now()
    await_true(lambda: store(served).now() > begun, "a second begins, which may last until it is mended")
    config = sealed_config(sight(served), SECOND)
    config.dynamic_batching.max_queue_delay_microseconds = 77_000
    override = json_format.MessageToDict(config, preserving_proto_field_name=True)
    address = served.environment.pairs["default"].green.replicas[0].grpc
    with InferenceServerClient(address) as client:
        client.load_model(served.name, config=json.dumps(override), headers=key_header(served.environment))
    with pytest.raises(ProofFailed):
        prove_stable(served)
    with Clients(served) as clients:
        done = look(served)
    prove_stable(served)
    assert clients.failed() == 0, clients.problems[:3]
    assert any(f"{SECOND} on green: a load was not enough" in each["act"] for each in done.healed), done


@pytest.mark.parametrize("damage", ["another config", "no config", "a cut file", "a file too few"])
def test_a_serving_prefix_is_made_what_was_sealed(served: Model, damage: str) -> None:
    seen, root = sight(served), f"serving/default/green/{served.name}/"
    base = seen.archive.require(SECOND)
    if damage == "another config":
        text = configs.render(configs.disabled(sealed_config(seen, SECOND)), epoch=1)
        prefix(served, "green").write_config(text, lambda: None)
    elif damage == "no config":
        seen.store.delete(f"{root}config.pbtxt")
    elif damage == "a cut file":
        seen.store.put(f"{root}{SECOND}/model.onnx", b"half of it")
    else:
        seen.store.delete(f"{root}{SECOND}/model.onnx")
    with Clients(served) as clients:
        done = look(served)
    assert clients.failed() == 0, clients.problems[:3]
    assert len(done.healed) == 1, done
    assert done.problems == []
    prefix(served, "green").compare(seen.archive, base)
    assert configs.parse(prefix(served, "green").config() or "") == sealed_config(seen, SECOND)
    prove_stable(served)
    assert served.state.claim is None
    assert look(served) == guard.Round()


def test_a_route_that_gives_weight_to_another_version_goes_back_to_stable(served: Model) -> None:
    roles = {"canary": "blue", "versions": {"blue": FIRST, "green": SECOND}}
    wrong = replace(route(served), **roles, weights={"blue": 30, "green": 70})
    connect(served.environment).set(wrong)
    with Clients(served) as clients:
        done = look(served)
    assert [each["act"] for each in done.healed] == [
        "the route was {'blue': 30, 'green': 70} instead of {'blue': 0, 'green': 100}"
    ]
    assert dict(route(served).weights) == {"blue": 0, "green": 100}
    assert route(served).canary is None
    assert clients.failed() == 0, clients.problems[:3]


def test_files_of_another_version_beside_stables_are_deleted(served: Model) -> None:
    left = f"serving/default/green/{served.name}/{BROKEN}/model.onnx"
    store(served).put(left, b"of a copy that ended late")
    done = look(served)
    assert [each["act"] for each in done.healed] == [f"{SECOND} on green: [{BROKEN}] lies there too"]
    assert not store(served).exists(left)
    assert look(served) == guard.Round()


def left_on_bench(model: Model) -> ServingPrefix:
    """Have bench serve SECOND, which nobody takes off."""
    archive, bench = Archive(store(model), model.name), prefix(model, "bench")
    bench.place(archive, archive.require(SECOND), lambda: None)
    bench.write_config(configs.render(sealed_config(sight(model), SECOND), epoch=1), lambda: None)
    with replica(model, "bench", 0) as client:
        client.load(model.name, 60, version=SECOND)
    return bench


def test_a_version_whose_folder_is_gone_is_taken_off_a_fleet_without_a_role(served: Model) -> None:
    """As of a server that was down while it was to unload, and had downloaded it by then."""
    bench = left_on_bench(served)
    with replica(served, "bench", 0) as client:
        bench.delete(lambda: None)
        assert client.index(served.name) == []
        done = look(served)
        assert not client.ready(served.name)
    assert [each["act"] for each in done.healed] == ["a loaded version (triton-bench-0) was left on bench"]


def test_what_lies_on_a_fleet_without_a_role_is_taken_off(served: Model) -> None:
    left_on_bench(served)
    with replica(served, "bench", 0) as client:
        done = look(served)
        assert not client.ready(served.name)
    assert [each["act"] for each in done.healed] == ["the model's folder was left on bench"]
    assert store(served).objects(f"serving/default/bench/{served.name}/") == []


def test_a_replica_that_is_down_is_named_and_nothing_else_is_done(served: Model, killed: Any) -> None:
    before = served.state
    with killed("triton-green-0"):
        done = look(served)
    assert done.healed == []
    assert len(done.problems) == 1
    assert "triton-green-0" in done.problems[0]
    assert served.state == before


def test_a_standby_is_taken_off_when_it_is_hot_no_longer(served: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.state.standby is not None
    now = ObjectStore.now
    monkeypatch.setattr(ObjectStore, "now", lambda self: now(self) + timedelta(minutes=61))
    done = look(served)
    assert [each["act"] for each in done.healed] == [f"standby {FIRST} is hot no longer"]
    monkeypatch.undo()
    assert served.state.standby is None
    assert prefix(served, "blue").config() is None
    with replica(served, "blue", 0) as client:
        assert not client.ready(served.name)
    assert abort.target(served.state) == FIRST, "it can be restored from the archive"


def test_a_replica_without_the_canary_loads_it_again(served: Model, shelf: Shelf) -> None:
    """As one may be that started while the version before was deleted."""
    shelf.seal(served, [BROKEN])
    release = served.build(BROKEN, benchmark=False)
    plan.run(release, served.environment, served.spec)
    for step in (export, validate, publish, deploy):
        step.run(release, served.environment)
    with replica(served, "blue", 0) as client:
        client.unload(served.name)
        await_true(lambda: not client.ready(served.name), "it is unloaded")
        done = look(served)
        assert client.ready(served.name, BROKEN)
    assert [each["act"].split(":")[0] for each in done.healed] == [f"triton-blue-0 loaded canary {BROKEN} again"]
    assert done.problems == []
    roll_back.run(release, served.environment, "the test is over")
    with pytest.raises(ReleaseError):
        finish.run(release, served.environment)


def test_a_held_canary_whose_release_died_is_looked_at_and_goes_back_rejected_when_it_is_bad(
    model: Model, shelf: Shelf
) -> None:
    held = held_and_dead(shelf, model, BROKEN, margin=0.003)  # what fails of BROKEN can't be proved to be less
    assert look(held) == guard.Round(), "without traffic nobody can say that it is bad"
    assert route(held).weights["green"] == 10
    done = returned_under_traffic(held)
    assert done.problems == []
    assert held.state.rejection_of(BROKEN) is not None
    assert "errors" in held.state.rejected[-1].reason


def test_a_held_canary_whose_release_died_goes_back_unrejected_once_its_stage_is_judged_good(
    model: Model, shelf: Shelf
) -> None:
    held = held_and_dead(shelf, model, SECOND, margin=0.1)
    done = returned_under_traffic(held)
    assert done.problems == []
    assert held.state.rejection_of(SECOND) is None
    assert "died while it was held at 10 %" in done.returned[0]["reason"]
    assert held.state.release is not None
    assert list(held.state.release.verdicts) == ["10"], "no later stage is looked at: it never had traffic"


def held_and_dead(shelf: Shelf, model: Model, version: int, margin: float) -> Model:
    """Leave a canary at 10 % beside FIRST, held for want of traffic, its release silent for longer than its lease."""
    errors, *others = model.spec.canary.gates
    gates = [errors.model_copy(update={"margin": margin}), *others]
    canary = model.spec.canary.model_copy(update={"max_bake_s": 3.5, "hold_s": 600, "gates": gates})
    held = Model(model.spec.model_copy(update={"canary": canary}), model.environment)
    shelf.seal(held, [FIRST, version])
    with Clients(held):
        held.release(held.build(FIRST))
    dying = held.environment.model_copy(update={"lease_s": LEASE_S})
    release = held.build(version, benchmark=False)
    plan.run(release, held.environment, held.spec)
    for step in (export, validate, publish, deploy):
        step.run(release, held.environment)
    shift.run(release, dying, 10)

    def is_held() -> bool:
        watch.look(release, dying, 10)
        return bool(held.state.claim and held.state.claim.held_until)

    await_true(is_held, "no traffic: the stage is held")
    await_true(lambda: is_silent(held), "the release is dead", LEASE_S + 20)
    return held


def is_silent(model: Model) -> bool:
    claim = model.state.claim
    return claim is not None and claim.expires_at < store(model).now()


def returned_under_traffic(model: Model) -> guard.Round:
    """Let clients come back and the guard look until it returns the canary; returns that last round."""
    rounds: list[guard.Round] = []
    with Clients(model, rate_per_s=150):
        await_true(lambda: is_silent(model), "the guard's own look is over", 60)

        def returned() -> bool:
            rounds.append(look(model))
            return bool(rounds[-1].returned)

        await_true(returned, "the guard returns it", 90)
    assert route(model).weights == {"blue": 100, "green": 0}
    assert (model.state.canary, model.state.claim) == (None, None)
    assert [problem for each in rounds for problem in each.problems] == []
    return rounds[-1]

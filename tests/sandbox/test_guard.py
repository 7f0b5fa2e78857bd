"""A canary whose release has died goes back by itself, and one whose release lives does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model_release.environment import Environment
from model_release.errors import StoreUnavailable, Superseded
from model_release.ledger.events import Events
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, deploy, export, guard, plan, publish, shift, validate
from model_release.steps.orphan import is_orphan
from model_release.traffic import connect
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, await_true
from tests.sandbox.shelf import Shelf

LEASE_S = 8


def canary_weight(model: Model) -> int:
    route = connect(model.environment).read(model.name)
    assert route is not None
    return route.weights[route.canary] if route.canary else 0


def looked_after(model: Model) -> guard.Round:
    """One round of the guard, without what other tests left."""
    return guard.run(model.environment, [model.name])


@pytest.fixture
def abandoned(sealed: Model) -> Model:
    """A model whose second version has 10 % of the traffic, in a release that goes no further."""
    model = sealed
    with Clients(model):
        model.release(model.build(FIRST))
    release = model.build(SECOND)
    plan.run(release, model.environment, model.spec)
    for step in (export, validate, publish, benchmark, deploy):
        step.run(release, model.environment)
    shift.run(release, model.environment.model_copy(update={"lease_s": LEASE_S}), 10)
    assert canary_weight(model) == 10
    return model


def test_the_guards_process_returns_an_abandoned_canary_and_the_dead_release_stays_dead(
    abandoned: Model, sandbox: Sandbox
) -> None:
    before = abandoned.state
    assert looked_after(abandoned) == guard.Round()
    assert abandoned.state == before, "its claim was still good"

    command = [str(Path(sys.executable).with_name("model-release")), "guard", abandoned.name, "--every-s", "0.5"]
    environment = {**os.environ, "MODEL_RELEASE_ENVIRONMENT": str(sandbox.home.environment_file)}
    with Clients(abandoned) as clients:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            await_true(lambda: canary_weight(abandoned) == 0, "the guard returns the canary", LEASE_S + 30)
            await_true(lambda: abandoned.state.claim is None, "the guard gives the claim back", 30)
        finally:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"returned the canary {SECOND} of {abandoned.name}: its release run-{SECOND}#0 was not heard of" in " ".join(
        said.split()
    )
    assert clients.failed() == 0, clients.problems[:3]

    state = abandoned.state
    assert (state.stable, state.canary, state.rejected) == (before.stable, None, [])
    [event] = [
        event
        for event in Events(ObjectStore(abandoned.environment.s3), abandoned.name).read()
        if event["what"] == "rolled_back"
    ]
    assert (event["by"], event["rolled_back"]) == ("guard", SECOND)
    with pytest.raises(Superseded):
        shift.run(abandoned.build(SECOND), abandoned.environment, 50)
    assert canary_weight(abandoned) == 0


def test_two_guards_and_the_next_release_at_once_leave_one_answer(abandoned: Model) -> None:
    store = ObjectStore(abandoned.environment.s3)
    await_true(lambda: is_orphan(abandoned.state, store.now(), LEASE_S), "the claim expires", LEASE_S + 10)
    rounds: list[guard.Round] = []
    threads = [threading.Thread(target=lambda: rounds.append(looked_after(abandoned))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.problems for each in rounds] == [[], [], []]
    assert sum(len(each.returned) for each in rounds) == 1
    assert (canary_weight(abandoned), abandoned.state.canary, abandoned.state.claim) == (0, None, None)


def test_a_living_release_is_left_alone(model: Model, shelf: Shelf) -> None:
    shelf.seal(model, [FIRST])
    with Clients(model):
        model.release(model.build(FIRST))
    ended = threading.Event()
    returned: list[object] = []

    def look() -> None:
        while not ended.wait(0.2):
            returned.extend(looked_after(model).returned)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        with Clients(model):
            model.release(model.build(SECOND))
    finally:
        ended.set()
        thread.join()
    assert returned == []
    assert model.state.stable
    assert model.state.stable.version == SECOND


def test_with_s3_down_a_round_says_so(dead_s3: Environment) -> None:
    with pytest.raises(StoreUnavailable):
        guard.run(dead_s3)

"""A release under which another model of its fleet begins to fail goes back, and says which and by how much."""

from __future__ import annotations

import uuid

import pytest

from model_release.ledger.state import StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import deploy, export, plan, publish, roll_back, shift, validate, watch
from model_release.triton.replica import ReplicaClient
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, await_true, quick_spec, remove
from tests.sandbox.shelf import Shelf


@pytest.mark.usefixtures("sealed")
def test_a_release_under_which_another_model_begins_to_fail_goes_back(model: Model, shelf: Shelf) -> None:
    """The neighbour loses its version on one of the two replicas, as it would to a canary that eats the memory."""
    neighbour = Model(quick_spec(f"neighbour_{uuid.uuid4().hex[:8]}"), model.environment)
    shelf.seal(neighbour, [FIRST])
    try:
        with Clients(neighbour) as known:
            neighbour.release(neighbour.build(FIRST))
            await_true(lambda: known.by_version().get(str(FIRST), 0) > 300, "the neighbour is known")
            failed = known.failed()  # before it was released

            release = model.build(SECOND, benchmark=False)
            plan.run(release, model.environment, model.spec)
            for step in (export, validate, publish, deploy):
                step.run(release, model.environment)
            assert model.state.canary
            assert neighbour.state.stable
            assert model.state.canary.fleet == neighbour.state.stable.fleet == "blue"
            shift.run(release, model.environment, 100)
            healthy = watch.look(release, model.environment, 100)
            assert healthy["action"] is None
            assert healthy["bystanders"][neighbour.name]["before"]["requests"] > 300

            replica = model.environment.pairs["default"].blue.replicas[0]
            with ReplicaClient(replica, model.environment) as client:
                client.unload(neighbour.name)
            judged = watch.run(release, model.environment, 100)
            assert judged["action"] == "rollback"
            assert "another model on blue suffers: " in judged["reason"]
            assert f"of {neighbour.name} failed since the deploy" in judged["reason"]
            roll_back.run(release, model.environment, "")
        assert known.failed() == failed, "the other replica answered what this one could not"
        state = StateFile(ObjectStore(model.environment.s3), model.name).read()
        assert (state.canary, [each.version for each in state.rejected]) == (None, [SECOND])
        assert neighbour.name in state.rejected[0].reason
    finally:
        remove(neighbour)

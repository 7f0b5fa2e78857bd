"""Who acts in another's place, or against it, does so only where that stands as it was seen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from model_release.environment import S3, Environment
from model_release.errors import ClaimHeld, NothingToDecide, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.claim import take
from model_release.ledger.state import Placement, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import abort, approve, decide, orphan
from tests.unit.meanwhile import acting_before
from tests.unit.waiting import RELEASE, VERSION, environment, s3, waiting

__all__ = ["environment", "s3"]


@pytest.mark.parametrize("phase", ["approve", "watch 10"])
def test_nobody_stands_in_for_a_release_that_lives_or_has_gone_on(s3: S3, environment: Environment, phase: str) -> None:
    store = ObjectStore(s3)
    before = waiting(store, phase)
    with pytest.raises(ClaimHeld):
        approve.look(RELEASE, environment, stands_in=True)
    assert StateFile(store, "toy").read() == before

    waiting(store, phase, expired=True)
    if phase == "approve":
        assert not approve.look(RELEASE, environment, stands_in=True)["done"]
    else:
        with pytest.raises(ClaimHeld):
            approve.look(RELEASE, environment, stands_in=True)


@pytest.mark.parametrize("moves", ["claim", "canary"])
def test_an_abort_preempts_nobody_who_came_since_it_looked(
    s3: S3, environment: Environment, monkeypatch: pytest.MonkeyPatch, moves: str
) -> None:
    store = ObjectStore(s3)
    waiting(store, "watch 10")
    canary = Placement(fleet="green", version=VERSION, digest="d")
    StateFile(store, "toy").change(lambda state: state.model_copy(update={"canary": canary}))
    theirs = Release("toy", 1, Kind.RESTORE, "run-3")

    def move() -> None:
        if moves == "claim":
            take(StateFile(store, "toy"), store, theirs, "plan", 60, begins=True)
        else:
            StateFile(store, "toy").change(lambda state: state.model_copy(update={"canary": None, "stable": canary}))

    asked = Release("toy", VERSION, Kind.RESTORE, "abort-1", reason="bad", by="ada")
    refused = Superseded if moves == "claim" else NothingToDecide
    with acting_before(2, move, monkeypatch), pytest.raises(refused):
        abort.run(asked, environment)

    after = StateFile(store, "toy").read()
    assert after.claim
    assert after.claim.holder == (theirs.holder if moves == "claim" else "run-1#0")
    assert after.superseded == (["run-1#0"] if moves == "claim" else [])
    if moves == "canary":
        with pytest.raises(NothingToDecide, match=f"version {VERSION} is no canary any more.*run the command again"):
            abort.run(asked, environment)


def test_the_guard_ends_no_canary_for_which_an_answer_came_in_this_moment(
    s3: S3, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person's clock says that the hold goes on, and the guard's that it is over."""
    store, clock = ObjectStore(s3), ObjectStore.now
    waiting(store, "watch 10", expired=True)
    canary = Placement(fleet="green", version=VERSION, digest="d")
    StateFile(store, "toy").change(lambda state: state.model_copy(update={"canary": canary}))

    def answer() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "now", clock)
            decide.run("toy", environment, "extend", by="ada", reason="noon", seconds=9000)

    monkeypatch.setattr(ObjectStore, "now", lambda store: clock(store) + timedelta(seconds=4000))
    with acting_before(2, answer, monkeypatch), pytest.raises(Superseded):
        orphan.return_orphan("toy", store, environment)
    after = StateFile(store, "toy").read()
    assert after.canary == canary
    assert after.release
    assert after.release.extended_s == {"10": 9000.0}

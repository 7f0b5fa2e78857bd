"""One canary at a time on a fleet pair: who waits for whom, for how long, and who is in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_release.environment import S3
from model_release.errors import CanaryQueued
from model_release.identity import Kind
from model_release.ledger.events import Events
from model_release.ledger.queue import CanaryQueue
from model_release.ledger.state import ClaimRecord, Running, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import queue as turns
from model_release.steps.context import freeze_spec
from tests.unit import toys
from tests.unit.fake_s3 import FakeS3
from tests.unit.test_policy import VERSION, build, environment


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


def runs(store: ObjectStore, model: str, run: str = "run-1", *, silent: bool = False, **facts: Any) -> Any:
    """Let a release of a model run, and return a step of it."""
    now = store.now()
    release = Running(
        run_id=run, clear_number=0, version=VERSION, kind=Kind.BUILD, checkpoint="c", fleet="green",
        first_release=False, stages=[100], started_at=now, **{"spec_digest": "d", **facts},
    )  # fmt: skip
    claim = ClaimRecord(
        run_id=run, clear_number=0, kind=Kind.BUILD, version=VERSION, phase="deploy",
        expires_at=now + timedelta(seconds=-9 if silent else 600),
    )  # fmt: skip
    StateFile(store, model).change(lambda state: state.model_copy(update={"release": release, "claim": claim}))
    told: list[dict[str, Any]] = []
    return SimpleNamespace(
        store=store, release=build(model, run), model=model, spec=toys.spec(), told=told,
        event=lambda what, **facts: told.append({"what": what, **facts}), check=lambda: None,
    )  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_POLL_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_one_canary_at_a_time_in_the_order_in_which_they_came(s3: S3, tmp_path: Path) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, one_canary_per_pair=True, queue_s=0.05)
    first, second, third = (runs(store, name) for name in ("one", "two", "three"))
    for step in (first, second, third):
        step.environment = place
    queue = CanaryQueue(store, "default")

    turns.await_turn(first)
    assert [entry.model for entry in queue.join("two", "run-1#0", VERSION)] == ["one", "two"]
    with pytest.raises(CanaryQueued, match=r"where one version \d+ has its canary, and 1 more waited before it"):
        turns.await_turn(third)
    assert [event["behind"] for event in third.told] == ["one"]
    assert [entry.model for entry in queue.entries()] == ["one", "two"]

    turns.leave_queue(first)
    turns.await_turn(second)
    assert [entry.model for entry in queue.entries()] == ["two"]


@pytest.mark.usefixtures("quick")
def test_a_release_that_died_or_ended_is_in_nobodys_way_and_a_restore_waits_for_nobody(s3: S3, tmp_path: Path) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, one_canary_per_pair=True, queue_s=5)
    queue = CanaryQueue(store, "default")
    for name, facts in (("dead", {"silent": True}), ("over", {"outcome": "rolled_back"}), ("again", {"run": "run-2"})):
        runs(store, name, **facts)
        queue.join(name, "run-1#0", VERSION)
    step = runs(store, "toy")
    step.environment = place

    turns.await_turn(step)
    assert [entry.model for entry in queue.entries()] == ["toy"]

    restore = runs(store, "other")
    restore.environment, restore.release = place, build("other", kind=Kind.RESTORE)
    turns.await_turn(restore)
    assert [entry.model for entry in queue.entries()] == ["toy"]


def test_without_the_policy_nobody_waits_and_nothing_is_written(s3: S3, tmp_path: Path) -> None:
    step = runs(ObjectStore(s3), "toy")
    step.environment = environment(s3, tmp_path)

    turns.await_turn(step)
    turns.leave_queue(step)

    assert ObjectStore(s3).objects("turns/") == []


def test_looks_of_other_processes_keep_the_place_tell_of_each_holder_once_and_go_on_when_it_is_their_turn(
    s3: S3, tmp_path: Path
) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, one_canary_per_pair=True)
    first, waits = runs(store, "one"), build("two")
    first.environment = place
    runs(store, "two", spec_digest=freeze_spec(store, toys.spec(name="two"), lambda: None))
    turns.await_turn(first)

    looks = [turns.look(waits, place)]
    looks.append(turns.look(waits, place, looks[-1]["behind"]))
    turns.leave_queue(first)
    looks.append(turns.look(waits, place, looks[-1]["behind"]))

    assert [look["done"] for look in looks] == [False, False, True]
    assert looks[0]["behind"]["model"] == "one"
    assert [event["behind"] for event in Events(store, "two").read() if event["what"] == "queued"] == ["one"]


def test_the_wait_ends_queue_s_after_it_began_whoever_looks(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, one_canary_per_pair=True, queue_s=50)
    first, waits, now = runs(store, "one"), build("two"), ObjectStore.now
    first.environment = place
    runs(store, "two", spec_digest=freeze_spec(store, toys.spec(name="two"), lambda: None))
    turns.await_turn(first)
    behind = turns.look(waits, place)["behind"]

    monkeypatch.setattr(ObjectStore, "now", lambda store: now(store) + timedelta(seconds=52))
    with pytest.raises(CanaryQueued, match=r"two waited 50 s for its turn"):
        turns.look(waits, place, behind)

    assert [entry.model for entry in CanaryQueue(store, "default").entries()] == ["one"]

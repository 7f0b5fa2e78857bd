"""A whole look at a stage: read, judged and kept in the ledger, where the router and the fleets are toys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_release.environment import S3, Environment
from model_release.gates.looks import Look
from model_release.identity import Kind, Release
from model_release.ledger.looks import Looks, StageLooks
from model_release.ledger.state import ClaimRecord, Placement, Running, StateFile
from model_release.repository.store import ObjectStore
from model_release.spec import Canary, ModelSpec
from model_release.steps import answers, before, context, decide, watch
from model_release.steps.before import watching_stable
from model_release.steps.context import begin, freeze_spec
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import ArmCounters
from tests.unit import served_toys
from tests.unit.fake_s3 import FakeS3
from tests.unit.meanwhile import acting_before

VERSION, STABLE = 20260102000000, 20260101000000
RELEASE = Release("toy", VERSION, Kind.BUILD, "run-1", by="ada")
GOLDEN = 40


class Counting(MemoryRouter):
    """A router that counts more at each reading, also by stable's replicas."""

    readings = 0

    def counters_by_router(self, model: str, pair: str) -> dict[str, dict[str, ArmCounters]]:
        self.readings += 1
        n = self.readings
        arms = {"blue": ArmCounters(900 * n, n, {}, "a"), "green": ArmCounters(100 * n, 0, {}, "a")}
        return {"a": arms, "b": {fleet: ArmCounters(arm.requests, 0, {}, "b") for fleet, arm in arms.items()}}

    def counters_by_replica(self, model: str, pair: str) -> dict[str, dict[str, tuple[int, int]]]:
        n = self.readings
        return {"blue": {"one": (900 * n, n), "two": (900 * n, 0)}, "green": {}}


class Fleet:
    """A replica that says what the sample's own number says; the canary, on port 2, is wrong about every fourth."""

    asked: list[tuple[str, list[float]]] = []
    patience_s: set[float] = set()

    def __init__(self, replica: Any, environment: Environment) -> None:
        self.name = replica.name
        self.patience_s.add(environment.call_timeout_s)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def infer(self, _: str, inputs: dict[str, Any], *, batching: bool) -> dict[str, Any]:
        first = inputs["x"][:, 0]
        self.asked.append((self.name, first.tolist()))
        wrong = (first % 4 == 0) if self.name == "canary" else np.zeros(len(first), bool)
        return {"y": np.stack([np.where(wrong, 0.0, 1.0), np.where(wrong, 1.0, 0.0)], axis=1)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    samples = np.zeros((GOLDEN, 3), np.float32)
    samples[:, 0] = np.arange(GOLDEN)
    np.savez(tmp_path / "golden.npz", x=samples, label=np.zeros(GOLDEN, np.int64))
    router = Counting()
    monkeypatch.setattr(context, "connect", lambda _: router)
    monkeypatch.setattr(watch, "look_at_replicas", lambda *_: ({"canary": {}}, []))
    monkeypatch.setattr(answers, "ReplicaClient", Fleet)
    monkeypatch.setattr(answers, "_spec_of", lambda step, _: step.spec)
    Fleet.asked = []
    with FakeS3().served() as s3:
        yield environment(s3, tmp_path)


def environment(s3: S3, folder: Path) -> Environment:
    def fleet(name: str) -> dict[str, Any]:
        return {"replicas": [{"name": name, "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}

    pair = {"blue": fleet("stable"), "green": fleet("canary"), "bench": fleet("bench")}
    router = {"directory": folder, "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"}
    return Environment.model_validate({"s3": s3, "pairs": {"default": pair}, "router": router})


def toy(folder: Path, **canary_changes: Any) -> ModelSpec:
    gates = [
        {"name": "errors", "kind": "error_rate"},
        {"name": "right", "kind": "accuracy", "dry_run": True, "requests_per_look": 16},
    ]
    quick = {"look_interval_s": 0.5, "min_bake_s": 0, "min_requests": 1, **canary_changes}
    canary = Canary.model_validate({"gates": gates, **quick})
    return served_toys.spec(canary=canary, accuracy={"golden_set": (folder / "golden.npz").as_uri()})


def begun(environment: Environment, folder: Path, **canary_changes: Any) -> ObjectStore:
    """Write the ledger of a release whose canary is at 10 %."""
    store = ObjectStore(environment.s3)
    now = store.now()
    claim = ClaimRecord(
        run_id="run-1", clear_number=0, kind=Kind.BUILD, version=VERSION, phase="shift 10",
        expires_at=now + timedelta(seconds=60),
    )  # fmt: skip
    running = Running(
        run_id="run-1", clear_number=0, version=VERSION, kind=Kind.BUILD, checkpoint="s3://c", fleet="green",
        spec_digest=freeze_spec(store, toy(folder, **canary_changes), lambda: None), first_release=False,
        stages=[10, 100], started_at=now, deployed=True,
    )  # fmt: skip
    stable, canary = (
        Placement(fleet=fleet, version=version, digest="d") for fleet, version in (("blue", STABLE), ("green", VERSION))
    )
    change = {"claim": claim, "release": running, "epoch": 4, "stable": stable, "canary": canary}
    StateFile(store, "toy").change(lambda state: state.model_copy(update=change))
    return store


def opened(store: ObjectStore, before_s: float = 0) -> Looks:
    looks = Looks(store, "toy", VERSION, RELEASE.holder)
    started_at = datetime.now(UTC) - timedelta(seconds=before_s)
    looks.write(StageLooks(stage=10, started_at=started_at, baseline={}, counters={}), None)
    return looks


def test_looks_hold_both_routers_stables_replicas_and_samples_that_nobody_is_asked_twice(
    place: Environment, tmp_path: Path
) -> None:
    looks = opened(begun(place, tmp_path))
    for _ in range(4):
        watch.look(RELEASE, place, 10)
    kept, _ = looks.read(10)
    assert kept is not None
    assert Fleet.patience_s == {1.0}, "sixteen samples have as long as a client's request, not the call timeout"
    second = Look.from_dict(kept.looks[1])
    assert [(part.canary.requests, part.stable.requests) for part in second.strata] == [(100, 900), (100, 900)]
    assert (second.canary.requests, second.stable.requests) == (200, 1800)
    assert [(replica.requests, replica.errors) for replica in second.stable_by_replica] == [(900, 1), (900, 0)]
    paired = [Look.from_dict(line).paired.get("right") for line in kept.looks]
    assert [each and each.plus + each.zero + each.minus for each in paired] == [16, 16, 8, None]
    assert sum(each.minus for each in paired if each) == GOLDEN // 4
    for name in ("stable", "canary"):
        numbers = [number for who, asked in Fleet.asked for number in asked if who == name]
        assert sorted(numbers) == list(range(GOLDEN))
        assert numbers != sorted(numbers)
    assert kept.verdict is not None
    assert next(gate for gate in kept.verdict["gates"] if gate["name"] == "right")["n"] == GOLDEN


@pytest.mark.parametrize(("verb", "comes_to"), [("extend", None), ("advance", "advance"), ("roll_back", "rollback")])
@pytest.mark.parametrize("nth", [2, 6, 9])
def test_a_hold_that_ends_while_a_person_answers_ends_as_they_say(
    place: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, verb: str, comes_to: str | None
) -> None:
    store = begun(place, tmp_path, min_requests=10_000, max_bake_s=60, hold_s=60)
    looks = opened(store, before_s=121)
    held = store.now() + timedelta(seconds=600)
    claim = StateFile(store, "toy").read().claim
    assert claim
    claim = claim.model_copy(update={"phase": "watch 10", "held_until": held})
    StateFile(store, "toy").change(lambda state: state.model_copy(update={"claim": claim}))

    def answer() -> None:
        decide.run("toy", place, verb, by="grace", reason="known", seconds=600)

    with acting_before(nth, answer, monkeypatch):
        watch.look(RELEASE, place, 10)
        told = watch.look(RELEASE, place, 10)

    assert told["action"] == comes_to
    running = StateFile(store, "toy").read().release
    assert running
    assert (running.verdicts.get("10") or {}).get("action") == comes_to
    assert ("grace" in told["reason"]) == (comes_to is not None)
    assert looks.read(10)[0]


def test_a_late_look_at_a_judged_stage_leaves_the_claim_with_the_next_step(place: Environment, tmp_path: Path) -> None:
    """A triggerer that Airflow has given up may still take its looks."""
    store = begun(place, tmp_path)
    opened(store)
    judged = {"verdict": "advance", "action": "advance", "reason": "as good as stable"}
    with begin(RELEASE, place, "shift 50") as step:
        step.update_running(verdicts={"10": judged})
        told = watch.look(RELEASE, place, 10)
        step.check()

    assert (told["done"], told["action"], told["reason"]) == (True, "advance", "as good as stable")


def test_looks_in_one_process_go_on_when_the_guard_stood_in_for_it(
    place: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = opened(begun(place, tmp_path))
    guard = place.model_copy(update={"lease_s": 1})

    def stopped() -> None:
        """The process is stopped for longer than its lease, and the guard looks at the stage meanwhile."""
        file = StateFile(ObjectStore(place.s3), "toy")
        claim = file.read().claim
        assert claim
        dead = claim.model_copy(update={"expires_at": claim.expires_at - timedelta(hours=1)})
        file.change(lambda state: state.model_copy(update={"claim": dead}))
        watch.look(RELEASE, guard, 10, stands_in=True)

    with acting_before(8, stopped, monkeypatch):
        assert watch.run(RELEASE, place, 10)["done"]
    assert looks.read(10)[0]


def test_stable_is_looked_at_while_a_step_works_and_the_first_judge_knows_it(
    place: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = opened(begun(place, tmp_path))
    told: list[int] = []
    learn = watch.Judge.learn
    monkeypatch.setattr(watch.Judge, "learn", lambda judge, seen: (told.append(len(seen)), learn(judge, seen))[1])
    router = context.connect(place)
    with begin(RELEASE, place, "deploy") as step, watching_stable(step):
        while router.readings < 3:  # type: ignore[attr-defined]
            step.check()
    kept = [Look.from_dict(line) for line in looks.read_before()]
    assert len(kept) >= 2
    assert {look.canary.requests for look in kept} == {0}
    assert len(kept[-1].stable_by_replica) == 2
    before._learned.clear()
    watch.look(RELEASE, place, 10)
    assert told == [len(kept)]


class Forgetful(ObjectStore):
    """A store whose first answer to a write is lost, so that the client writes again and meets what it wrote."""

    def put(self, key: str, body: bytes, **conditions: Any) -> Any:
        super().put(key, body, **conditions)
        return super().put(key, body, **conditions)


def test_a_write_whose_answer_was_lost_counts_and_another_watchers_does_not() -> None:
    looked = StageLooks(stage=10, started_at=datetime(2026, 1, 1, tzinfo=UTC), baseline={}, counters={})
    later = looked.model_copy(update={"started_at": datetime(2026, 1, 2, tzinfo=UTC)})
    with FakeS3().served() as place:
        looks = Looks(Forgetful(place), "toy", VERSION, "run-1#0")

        assert looks.write(looked, None)
        _, etag = looks.read(10)
        assert looks.write(later, etag)
        assert not looks.write(looked, etag)
        assert looks.read(10)[0] == later

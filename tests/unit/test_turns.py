"""Turns at bench: one benchmark at a time, also when its holder dies, or is paused and wakes up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from model_release.errors import BenchBusy, BenchLost, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.turn import Lease, TurnLost, Turns, TurnTaken
from model_release.steps import benchmark
from model_release.steps.benchmark import _turn_at_bench
from model_release.steps.context import Step
from tests.unit.config_cases import line_spec
from tests.unit.served_toys import ENVIRONMENT
from tests.unit.stepped_store import SteppedStore

LEASE_S = 120.0
#: What nobody holds any more would be ended by the garbage collector.
DEAD: list[Any] = []


@pytest.fixture
def store() -> SteppedStore:
    return SteppedStore()


def turns_of(store: Any) -> Turns:
    return Turns(store, "default", "benchmark")


def quiet(_: str) -> None:
    """Wait and say nothing."""


def dead(store: SteppedStore, holder: str = "dead") -> Lease:
    """A lease whose holder renews it no more and never ends it."""
    kept = turns_of(store).lease(holder, LEASE_S, 0, quiet)
    DEAD.append(kept)
    lease: Lease = kept.__enter__()
    lease._stop.set()
    lease._renewer.join()
    return lease


def test_another_waits_for_it_and_hears_who_has_it(store: SteppedStore) -> None:
    heard: list[str] = []
    with turns_of(store).lease("first", LEASE_S, 0, quiet) as lease:
        lease.check()
        with pytest.raises(TurnTaken, match="first"), turns_of(store).lease("second", LEASE_S, 0, heard.append):
            pytest.fail("both have the turn")
    assert heard == ["first"]
    with turns_of(store).lease("second", LEASE_S, 0, quiet) as next_lease:
        assert next_lease.token > lease.token
    with pytest.raises(TurnLost, match="nobody any more"):
        turns_of(store).renew(lease.token, LEASE_S)


def test_what_waits_may_be_called_off(store: SteppedStore) -> None:
    def superseded(_: str) -> None:
        raise RuntimeError("a restore took the claim")

    with (
        turns_of(store).lease("first", LEASE_S, 0, quiet),
        pytest.raises(RuntimeError, match="a restore"),
        turns_of(store).lease("second", LEASE_S, 60, superseded),
    ):
        pytest.fail("both have the turn")


def test_a_dead_holders_turn_ends_with_its_lease_by_the_stores_clock_and_it_may_write_no_more(
    store: SteppedStore,
) -> None:
    zombie = dead(store)
    store.tick(LEASE_S - 1)
    with pytest.raises(TurnTaken, match="dead"), turns_of(store).lease("other", LEASE_S, 0, quiet):
        pytest.fail("the lease was not over")
    zombie.check()
    store.tick(2)
    with turns_of(store).lease("other", LEASE_S, 0, quiet) as lease:
        with pytest.raises(TurnLost, match="other"):
            zombie.check()
        with pytest.raises(TurnLost):
            turns_of(store).renew(zombie.token, LEASE_S)
        lease.check()
    with pytest.raises(TurnLost):
        zombie.check()


def test_a_retry_of_the_same_try_has_it_at_once_and_its_dead_self_does_not(store: SteppedStore) -> None:
    before = dead(store, "model run#0")
    with turns_of(store).lease("model run#0", LEASE_S, 0, quiet) as lease:
        lease.check()
        with pytest.raises(TurnLost):
            before.check()


def test_a_renewed_turn_outlives_its_first_lease(store: SteppedStore) -> None:
    lease = dead(store)
    for _ in range(3):
        store.tick(LEASE_S * 0.9)
        turns_of(store).renew(lease.token, LEASE_S)
    lease.check()
    with pytest.raises(TurnTaken), turns_of(store).lease("other", LEASE_S, 0, quiet):
        pytest.fail("both have the turn")


def test_of_many_at_once_one_has_it(store: SteppedStore) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    start = threading.Barrier(8)

    class Serial(SteppedStore):
        def put(self, *arguments: Any, **conditions: Any) -> str:
            with lock:
                return super().put(*arguments, **conditions)

    shared, counts = Serial(), []

    def work(name: str) -> None:
        nonlocal inside, most
        start.wait()
        with turns_of(shared).lease(name, LEASE_S, 30, quiet) as lease:
            with lock:
                inside += 1
                most = max(most, inside)
            lease.check()
            with lock:
                inside -= 1
        counts.append(lease.token)

    threads = [threading.Thread(target=work, args=(f"model-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert sorted(counts) == list(range(1, 9))


def test_a_recycling_keeps_the_token_rising(store: SteppedStore) -> None:
    lease = dead(store)
    store.tick(LEASE_S + 1)
    with turns_of(store).turn("recycler", "r-0", lasts_s=60, wait_s=0):
        pass
    with pytest.raises(TurnLost):
        lease.check()
    with turns_of(store).lease("other", LEASE_S, 0, quiet) as later:
        assert later.token == lease.token + 2


# --- the benchmark's step -----------------------------------------------------------------------


class Claimed:
    """A claim that is never lost, but when it is told so."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise Superseded("toy", 1, 2, "a restore")


def step_of(store: SteppedStore, model: str) -> Step:
    release = Release(model, 20260101000000, Kind.BUILD, "run")
    made = Step(release, ENVIRONMENT, store, Claimed())  # type: ignore[arg-type]
    made.__dict__["spec"] = line_spec()
    return made


def test_a_benchmark_that_lost_bench_may_write_no_more(store: SteppedStore) -> None:
    with _turn_at_bench(step_of(store, "first")) as fenced:
        fenced.check()
        store.tick(ENVIRONMENT.lease_s + 1)
        with _turn_at_bench(step_of(store, "second")) as other:
            other.check()
            with pytest.raises(BenchLost, match="benchmark of first version 20260101000000 lost bench to second run#0"):
                fenced.check()


def test_a_benchmark_that_waits_for_bench_gives_way_to_a_restore_and_gives_up_in_the_end(
    store: SteppedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "BENCH_WAIT_S", 0)
    waiting = step_of(store, "second")
    with _turn_at_bench(step_of(store, "first")):
        words = "bench was not free for second for 0 s: first run#0 has it"
        with pytest.raises(BenchBusy, match=words), _turn_at_bench(waiting):
            pytest.fail("both have bench")
        waiting.claim.lost = True  # type: ignore[attr-defined]
        with pytest.raises(Superseded), _turn_at_bench(waiting):
            pytest.fail("both have bench")

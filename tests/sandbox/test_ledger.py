"""The ledger on a real S3: one writer, the newest epoch wins, and nothing is counted twice."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from model_release.errors import BytesDiffer, ClaimHeld, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.claim import Claim, take
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks, StageLooks
from model_release.ledger.state import Running, State, StateFile
from model_release.repository.store import ObjectStore

LEASE_S = 60


def release(run_id: str, *, clear_number: int = 0, kind: Kind = Kind.BUILD, version: int = 20260101000000) -> Release:
    return Release("digits", version, kind, run_id, clear_number)


def begun(store: ObjectStore, who: Release, *, lease_s: float = LEASE_S) -> Claim:
    return take(StateFile(store, "digits"), store, who, "plan", lease_s, begins=True)


def expire_claim(store: ObjectStore) -> None:
    past = store.now() - timedelta(seconds=1)

    def expired(state: State) -> State:
        if state.claim is None:
            raise AssertionError
        return state.model_copy(update={"claim": state.claim.model_copy(update={"expires_at": past})})

    StateFile(store, "digits").change(expired)


def test_concurrent_changes_are_all_kept(store: ObjectStore) -> None:
    def raise_epoch(state: State) -> State:
        return state.model_copy(update={"epoch": state.epoch + 1})

    def work() -> None:
        for _ in range(5):
            StateFile(store, "digits").change(raise_epoch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    state = StateFile(store, "digits").read()
    assert (state.epoch, state.revision) == (20, 20)


def test_a_put_that_won_but_whose_answer_was_lost_is_not_applied_twice(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retried PUT gets a 412 from its own first try."""
    file = StateFile(store, "digits")
    file.change(lambda state: state)
    put = store.put
    answers = iter(["lost"])

    def put_twice(key: str, body: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        etag = put(key, body, if_absent=if_absent, if_match=if_match)
        return put(key, body, if_absent=if_absent, if_match=if_match) if next(answers, None) else etag

    monkeypatch.setattr(store, "put", put_twice)
    after = file.change(lambda state: state.model_copy(update={"epoch": state.epoch + 1}))

    assert after.epoch == 1
    assert file.read().epoch == 1


def test_a_corrupt_state_is_an_error_and_stays_as_it_is(store: ObjectStore) -> None:
    store.put("ledger/digits/state.json", b'{"epoch": "no')

    with pytest.raises(BytesDiffer, match=r"state\.json"):
        StateFile(store, "digits").change(lambda state: state)
    assert store.get("ledger/digits/state.json")[0] == b'{"epoch": "no'


def test_every_try_of_a_step_raises_the_epoch(store: ObjectStore) -> None:
    run = release("run-1")
    epochs = [begun(store, run).epoch]
    epochs += [take(StateFile(store, "digits"), store, run, "export", LEASE_S).epoch for _ in range(2)]

    assert epochs == [1, 2, 3]


def test_an_older_try_writes_nothing_after_a_newer_one(store: ObjectStore) -> None:
    run = release("run-1")
    older = begun(store, run)
    begun(store, run)

    with pytest.raises(Superseded, match="epoch 1 of digits is superseded by epoch 2"):
        older.change(lambda state: state.model_copy(update={"rejected": []}))
    with pytest.raises(Superseded):
        older.renew()
    assert StateFile(store, "digits").read().revision == 2


def test_a_build_waits_for_a_live_claim_and_is_told_whose(store: ObjectStore) -> None:
    begun(store, release("run-1"))

    with pytest.raises(ClaimHeld, match=r"run-1#0 \(in plan, its lease ends in \d+ s\)"):
        begun(store, release("run-2"))


def test_an_expired_claim_is_taken_over_and_its_run_never_gets_it_back(store: ObjectStore) -> None:
    first = begun(store, release("run-1"))
    expire_claim(store)
    begun(store, release("run-2"))

    with pytest.raises(Superseded):
        first.check()
    expire_claim(store)
    with pytest.raises(Superseded):
        begun(store, release("run-1"))
    begun(store, release("run-1", clear_number=1))


def test_a_restore_preempts_a_live_claim(store: ObjectStore) -> None:
    build = begun(store, release("run-1"))
    begun(store, release("restore-1", kind=Kind.RESTORE))

    with pytest.raises(Superseded):
        build.check()
    with pytest.raises(Superseded):
        take(StateFile(store, "digits"), store, release("run-1"), "deploy", LEASE_S)


def test_a_step_without_its_runs_plan_is_refused(store: ObjectStore) -> None:
    with pytest.raises(Superseded):
        take(StateFile(store, "digits"), store, release("run-1"), "deploy", LEASE_S)


def given_back(store: ObjectStore, claim: Claim, who: Release) -> None:
    """Note the release, as plan does, and give its claim back, as finish does."""
    running = Running(
        run_id=who.run_id, clear_number=who.clear_number, version=who.version, kind=who.kind, spec_digest="0",
        checkpoint="", fleet="blue", first_release=True, stages=[100], started_at=store.now(),
    )  # fmt: skip
    claim.change(lambda state: state.model_copy(update={"release": running, "claim": None}))


def test_the_last_step_may_have_the_claim_again_that_a_try_of_it_gave_back(store: ObjectStore) -> None:
    run, file = release("run-1"), StateFile(store, "digits")
    given_back(store, begun(store, run), run)

    with pytest.raises(Superseded):
        take(file, store, run, "deploy", LEASE_S)
    with pytest.raises(Superseded):
        take(file, store, release("run-1", clear_number=1), "finish", LEASE_S, ends=True)
    assert take(file, store, run, "finish", LEASE_S, ends=True).epoch == 2


def test_the_last_step_has_no_claim_again_once_another_release_began(store: ObjectStore) -> None:
    run, other, file = release("run-1"), release("run-2"), StateFile(store, "digits")
    given_back(store, begun(store, run), run)
    after = begun(store, other)
    with pytest.raises(Superseded):
        take(file, store, run, "finish", LEASE_S, ends=True)

    given_back(store, after, other)
    with pytest.raises(Superseded):
        take(file, store, run, "finish", LEASE_S, ends=True)


def test_of_two_runs_that_begin_at_once_one_gets_the_claim(store: ObjectStore) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(6)

    def try_to_begin(number: int) -> None:
        barrier.wait()
        try:
            begun(store, release(f"run-{number}"))
        except ClaimHeld:
            outcomes.append("held")
        else:
            outcomes.append("begun")

    threads = [threading.Thread(target=try_to_begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["begun", "held", "held", "held", "held", "held"]


def test_a_claim_is_renewed_while_its_step_runs(store: ObjectStore) -> None:
    claim = begun(store, release("run-1"), lease_s=3)
    before = StateFile(store, "digits").read()
    renewed = threading.Event()
    renew = claim.renew

    def renew_and_tell() -> None:
        renew()
        renewed.set()

    claim.renew = renew_and_tell  # type: ignore[method-assign]
    with claim:
        assert renewed.wait(10)

    after = StateFile(store, "digits").read()
    assert before.claim is not None
    assert after.claim is not None
    assert after.claim.expires_at > before.claim.expires_at


def test_events_are_kept_in_order_and_never_overwritten(store: ObjectStore) -> None:
    events = Events(store, "digits")
    for number in range(3):
        events.append(7, f"e{number}", store.now(), {"number": number})
    events.append(8, "e3", store.now(), {"number": 3})

    assert [event["number"] for event in events.read()] == [0, 1, 2, 3]


def test_a_look_taken_by_two_watchers_counts_once(store: ObjectStore) -> None:
    looks = Looks(store, "digits", 1, "scheduled__2026-01-01T00:00:00+00:00#0")
    empty = StageLooks(stage=10, started_at=store.now(), baseline={}, counters={})
    assert looks.write(empty, None)
    read, etag = looks.read(10)
    assert read is not None

    assert looks.write(read.model_copy(update={"looks": [{"t": 1}]}), etag)
    assert not looks.write(read.model_copy(update={"looks": [{"t": 2}]}), etag)
    kept, _ = looks.read(10)
    assert kept is not None
    assert kept.looks == [{"t": 1}]

"""
The ledger's state machine, by hypothesis: runs, guards and takeovers in any order, stopped between any two I/Os.

Without LEDGER_EXAMPLES the same few examples are run every time, and one that fails is told as it is; with it, so many
new ones are, and one that fails is made small.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from model_release.errors import ClaimHeld, StoreUnavailable, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.claim import Claim, take
from model_release.ledger.events import Events
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore
from tests.unit.fake_s3 import FakeS3
from tests.unit.stepped_store import Crashed, Fate, SteppedStore, Task

MODEL, LEASE_S = "digits", 10
STATE = f"ledger/{MODEL}/state.json"
T = TypeVar("T")
LONG = int(os.environ.get("LEDGER_EXAMPLES", "0"))
#: The changes of the state are told apart by names in a list that only grows, under a key that the library ignores.
NAMES = "changes_of_the_test"

#: How far a process comes before another goes on: mostly to its end, else to just before its first or second I/O, ...
STEPS = st.sampled_from([1, 2, 3, 4, 5, 20, 20, 20])
BACK = st.sampled_from([0, 0, 0, 1, 2])
FATES = st.sampled_from([*[Fate.WELL] * 8, *[Fate.LOST] * 3, *(fate for fate in Fate if fate is not Fate.WELL)])


def release(run_id: str, kind: Kind = Kind.BUILD, clear_number: int = 0) -> Release:
    return Release(MODEL, 1, kind, run_id, clear_number)


def one_of(these: list[T], back: int) -> T:
    """Return one of the last few."""
    return these[-1 - back % len(these)]


def without_claim(state: State) -> State:
    return state.model_copy(update={"claim": None})


def names_of(body: bytes | None) -> list[str]:
    return list(json.loads(body).get(NAMES, [])) if body else []


class Process:
    """One try of one step: the claim that it took, the names of what it changed and how that ended."""

    def __init__(self, who: Release, *, begins: bool) -> None:
        self.release, self.begins = who, begins
        self.claim: Claim | None = None

    @property
    def epoch(self) -> int | None:
        return self.claim.epoch if self.claim else None


class Ledger(RuleBasedStateMachine):
    """Processes that take claims, change, renew, note events and give back, each stopped before any of its I/Os."""

    def __init__(self) -> None:
        super().__init__()
        self.store = SteppedStore()
        self.file = StateFile(cast(ObjectStore, self.store), MODEL)
        self.numbers = count(1)
        self.runs: list[Release] = []
        self.processes: list[Process] = []
        self.tasks: list[Task] = []
        self.kept: list[str] = []
        self.noted: list[str] = []
        self.checked = 0
        self.state = State(model=MODEL)

    # What may happen.

    @initialize(kind=st.sampled_from(Kind), steps=STEPS)
    def a_first_run_begins(self, kind: Kind, steps: int) -> None:
        self.a_new_run_begins(kind, steps, Fate.WELL)

    @rule(kind=st.sampled_from(Kind), steps=STEPS, fate=FATES)
    def a_new_run_begins(self, kind: Kind, steps: int, fate: Fate) -> None:
        self.runs.append(release(f"run-{next(self.numbers)}", kind))
        self._take(self.runs[-1], steps, fate, begins=True)

    @rule(back=st.integers(0, 4), begins=st.booleans(), steps=STEPS, fate=FATES)
    def a_run_goes_on(self, back: int, begins: bool, steps: int, fate: Fate) -> None:
        self._take(one_of(self.runs, back), steps, fate, begins=begins)

    @rule(steps=STEPS, fate=FATES)
    def a_guard_looks(self, steps: int, fate: Fate) -> None:
        guard = Process(release(f"guard-{next(self.numbers)}"), begins=True)

        def look() -> None:
            claim = self.file.read().claim
            if claim is not None and claim.expires_at <= self.store.now():
                guard.claim = self._taken(guard, "guard")
                guard.claim.change(without_claim)

        self._start(guard, look, steps, fate)

    @rule(back=BACK, steps=STEPS, fate=FATES)
    def a_holder_changes_the_state(self, back: int, steps: int, fate: Fate) -> None:
        name = f"change-{next(self.numbers)}"
        self._act(
            back, steps, fate, lambda claim: (claim.change(lambda state: named(state, name)), self.kept.append(name))
        )

    @rule(back=BACK, steps=STEPS, fate=FATES)
    def a_holder_notes_an_event(self, back: int, steps: int, fate: Fate) -> None:
        name, store = f"event-{next(self.numbers)}", cast(ObjectStore, self.store)

        def note(claim: Claim) -> None:
            Events(store, MODEL).append(claim.epoch, "noted", store.now(), {"name": name})
            self.noted.append(name)

        self._act(back, steps, fate, note)

    @rule(back=BACK, renews=st.booleans(), steps=STEPS, fate=FATES)
    def a_holder_renews_or_gives_back(self, back: int, renews: bool, steps: int, fate: Fate) -> None:
        self._act(back, steps, fate, lambda claim: claim.renew() if renews else claim.change(without_claim))

    @precondition(lambda self: self.tasks)
    @rule(back=BACK, steps=STEPS, fate=FATES)
    def a_stopped_process_goes_on(self, back: int, steps: int, fate: Fate) -> None:
        self._advance(one_of(self.tasks, back), steps, fate)

    @precondition(lambda self: self.tasks)
    @rule(back=BACK)
    def a_stopped_process_comes_to_its_end(self, back: int) -> None:
        self._advance(one_of(self.tasks, back), 50, Fate.WELL)

    @rule(seconds=st.sampled_from([LEASE_S / 2, LEASE_S - 1, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.store.tick(seconds)

    # How it is done.

    def _take(self, who: Release, steps: int, fate: Fate, *, begins: bool) -> None:
        process = Process(who, begins=begins)

        def taken() -> None:
            process.claim = self._taken(process, "plan" if begins else "deploy")

        self._start(process, taken, steps, fate)

    def _taken(self, process: Process, phase: str) -> Claim:
        claim = take(self.file, cast(ObjectStore, self.store), process.release, phase, LEASE_S, begins=process.begins)
        self.processes.append(process)
        return claim

    def _act(self, back: int, steps: int, fate: Fate, act: Callable[[Claim], object]) -> None:
        process = one_of(self.processes, back) if self.processes else None
        if process is not None and process.claim is not None:
            claim = process.claim
            self._start(process, lambda: act(claim), steps, fate)

    def _start(self, process: Process, work: Callable[[], object], steps: int, fate: Fate) -> None:
        self.tasks.append(Task(process, work))
        self._advance(self.tasks[-1], steps, fate)

    def _advance(self, task: Task, steps: int, fate: Fate) -> None:
        """Let a task come past so many I/Os, or up to its first write or the last of them, which goes by its fate."""
        for step in range(steps):
            at_its_fate = task.stands_before == "a write" or step == steps - 1
            task.go_on(fate if at_its_fate else Fate.WELL)
            if task.over or (at_its_fate and fate is not Fate.WELL):
                break
        if task.over:
            self.tasks.remove(task)
            self._judge_end(task)

    def _judge_end(self, task: Task) -> None:
        error, process = task.error, task.who
        assert error is None or isinstance(error, (Superseded, ClaimHeld, StoreUnavailable, Crashed)), repr(error)
        if isinstance(error, ClaimHeld):
            assert process.release.kind is Kind.BUILD, "a restore waited"

    def teardown(self) -> None:
        for task in self.tasks:
            task.go_on(Fate.CRASH_BEFORE)

    # What always holds.

    @invariant()
    def every_write_was_allowed(self) -> None:
        fresh, self.checked = self.store.written[self.checked :], len(self.store.written)
        for write in fresh:
            if write.key == STATE:
                after = State.model_validate_json(write.after)
                self._judge_write(write.who, self.state, after, write.at)
                assert names_of(write.after)[: len(names_of(write.before))] == names_of(write.before), "one was lost"
                self.state = after
            else:
                assert write.before is None, f"{write.key} was overwritten"
        if fresh:
            assert self.file.read() == self.state

    def _judge_write(self, process: Process, before: State, after: State, at: Any) -> None:
        assert after.revision == before.revision + 1
        if after.epoch == before.epoch:
            assert process.epoch == before.epoch, f"{process.release.holder} wrote in the epoch of another"
            return
        assert after.epoch == before.epoch + 1
        held, claim, who = before.claim, after.claim, process.release
        assert claim is not None
        assert claim.holder == who.holder
        assert who.holder not in before.superseded, "a superseded run got the claim back"
        if held is None or held.holder != who.holder:
            assert process.begins, "a run without the claim went on"
        if held is not None and held.holder != who.holder:
            assert held.holder in after.superseded
            assert who.kind is Kind.RESTORE or held.expires_at <= at, "a build took a live claim"

    @invariant()
    def one_process_at_most_holds_the_claim(self) -> None:
        epochs = Counter(process.epoch for process in self.processes if process.claim is not None)
        assert not [epoch for epoch, holders in epochs.items() if holders > 1], "two processes have one epoch"
        live = [process for process in self.processes if process.epoch == self.state.epoch]
        claim = self.state.claim
        assert claim is None or all(process.release.holder == claim.holder for process in live)

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        names = Counter(names_of(self.store.bodies.get(STATE)))
        events = Counter(
            json.loads(body)["name"] for key, body in self.store.bodies.items() if key.startswith(f"ledger/{MODEL}/e")
        )
        for found, promised in ((names, self.kept), (events, self.noted)):
            assert set(promised) <= set(found), "what was answered as done is not there"
            assert not [name for name, times in found.items() if times > 1], "it is there twice"


def named(state: State, name: str) -> State:
    return state.model_copy(update={NAMES: [*getattr(state, NAMES, []), name]})


def test_whatever_happens_in_whatever_order_the_ledger_has_one_writer_and_keeps_everything() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Ledger,
        settings=settings(
            max_examples=LONG or 110,
            stateful_step_count=80 if LONG else 40,
            derandomize=not LONG,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=list(Phase) if LONG else [Phase.generate],
        ),
    )


# What the search found, each told once more by itself.


def begun(store: SteppedStore, who: Release) -> Claim:
    any_store: Any = store
    return take(StateFile(any_store, MODEL), any_store, who, "plan", LEASE_S, begins=True)


def stopped_after_its_write(store: SteppedStore, who: Any, work: Any) -> Task:
    """Start a call, let its first write go through, and lose the answer: it stands before sending it again."""
    task, writes = Task(who, work), len(store.written)
    while len(store.written) == writes:
        task.go_on(Fate.LOST)
    return task


def test_a_run_that_was_preempted_before_it_had_its_answer_does_not_get_the_epoch_of_the_next() -> None:
    store = SteppedStore()
    build = stopped_after_its_write(store, "build", lambda: begun(store, release("run-1")))
    restore = begun(store, release("restore-1", Kind.RESTORE))

    build.finish()

    assert (build.result.epoch, restore.epoch) == (1, 2)
    with pytest.raises(Superseded):
        build.result.check()
    restore.check()


def test_a_change_whose_answer_was_lost_returns_what_it_wrote_and_not_what_came_after() -> None:
    store = SteppedStore()
    claim = begun(store, release("run-1"))
    change = stopped_after_its_write(store, "run-1", lambda: claim.change(lambda state: named(state, "mine")))
    begun(store, release("restore-1", Kind.RESTORE))

    change.finish()

    assert change.result.epoch == claim.epoch


def test_an_event_whose_answer_was_lost_is_noted_once() -> None:
    store: Any = SteppedStore()
    events = Events(store, MODEL)
    events.append(3, "deployed", store.now(), {"name": "before"})
    noting = stopped_after_its_write(store, "run", lambda: events.append(3, "shifted", store.now(), {"name": "it"}))

    noting.finish()

    assert noting.error is None
    assert [event["name"] for event in events.read()] == ["before", "it"]


def test_two_equal_events_are_both_noted() -> None:
    store: Any = SteppedStore()
    events = Events(store, MODEL)
    for _ in range(2):
        events.append(3, "held", store.now(), {"name": "same"})

    assert len(events.read()) == 2


# The store of these tests keeps the contract of the real one.


def told(store: Any) -> list[Any]:
    """Say what a store answers to what the ledger asks of it."""
    said: list[Any] = []

    def ask(call: Any) -> None:
        try:
            answer = call()
        except (ConditionFailed, KeyAbsent) as error:
            said.append(type(error))
        else:
            said.append(answer)

    ask(lambda: store.get("a/1"))
    first = store.put("a/1", b"1", if_absent=True)
    ask(lambda: store.put("a/1", b"2", if_absent=True))
    ask(lambda: store.put("a/1", b"2", if_match='"another"'))
    ask(lambda: store.put("b", b"2", if_match=first))
    ask(lambda: store.put("a/1", b"2", if_match=first))
    ask(lambda: store.put("a/1", b"3", if_match=first))
    ask(lambda: store.get("a/1"))
    store.put("a/0", b"0")
    ask(lambda: [(entry.key, entry.etag) for entry in store.objects("a/")])
    ask(lambda: store.objects("c"))
    ask(lambda: abs(store.now() - store.now()) < timedelta(minutes=1))
    return said


def test_the_store_of_these_tests_answers_as_one_over_http() -> None:
    with FakeS3().served() as s3:
        assert told(SteppedStore()) == told(ObjectStore(s3))

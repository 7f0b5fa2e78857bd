"""What a person decides: who is asked and when, what an answer does, and that no answer overrules a gate."""

from __future__ import annotations

import getpass
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.environment import S3, Environment
from model_release.errors import ClaimHeld, NotApproved, NothingToDecide, Superseded
from model_release.identity import Kind, Release
from model_release.ledger.claim import take
from model_release.ledger.events import Events
from model_release.ledger.state import Decision, Running, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps import approve, decide, orphan
from model_release.steps.approve import require_approval
from model_release.steps.decide import APPROVAL, waiting_for
from model_release.steps.held import by_person
from tests.unit import toys
from tests.unit.meanwhile import acting_before
from tests.unit.waiting import NEW_YEAR, RELEASE, VERSION, decided, environment, s3, waiting

__all__ = ["environment", "s3"]
GATHERING = {"verdict": "inconclusive", "action": None, "reason": "gathering: 3 of 60 requests", "unproved": []}


def test_a_yes_lets_an_approval_go_on_and_says_who_and_why(s3: S3, environment: Environment) -> None:
    store = ObjectStore(s3)
    waiting(store, "approve")
    assert approve.look(RELEASE, environment)["done"] is False

    done = decide.run("toy", environment, "advance", by="grace", reason="the numbers are fine", run="run-1#0")

    assert (done["subject"], done["verb"]) == (APPROVAL, "advance")
    assert approve.look(RELEASE, environment)["done"]
    assert approve.settle(RELEASE, environment)["said"] == "grace said yes: the numbers are fine"
    [event] = decided(store)
    assert (event["by"], event["reason"], event["run"]) == ("grace", "the numbers are fine", "run-1#0")


def test_a_no_ends_it_with_the_words_of_who_said_it(s3: S3, environment: Environment) -> None:
    waiting(ObjectStore(s3), "approve")
    decide.run("toy", environment, "roll_back", by="grace", reason="not today")

    with pytest.raises(NotApproved, match="grace said no: not today"):
        approve.settle(RELEASE, environment)


def test_no_answer_in_time_is_a_no(s3: S3, environment: Environment) -> None:
    store = ObjectStore(s3)
    waiting(store, "approve", held_for_s=-1)

    assert approve.look(RELEASE, environment)["done"]
    with pytest.raises(NotApproved, match="nobody said no: no answer within 600 s is a no"):
        approve.settle(RELEASE, environment)
    with pytest.raises(NothingToDecide):
        decide.run("toy", environment, "advance", by="late", reason="too late")


@pytest.mark.parametrize("verb", ["advance", "roll_back"])
@pytest.mark.parametrize("nth", range(1, 10))
def test_an_answer_counts_at_whatever_moment_of_a_look_it_comes(
    s3: S3, environment: Environment, monkeypatch: pytest.MonkeyPatch, nth: int, verb: str
) -> None:
    store = ObjectStore(s3)
    waiting(store, "approve")

    def answer() -> None:
        decide.run("toy", environment, verb, by="grace", reason="seen")

    with acting_before(nth, answer, monkeypatch):
        approve.look(RELEASE, environment)
        approve.look(RELEASE, environment)

    running = StateFile(store, "toy").read().release
    assert running
    assert (running.decisions[APPROVAL].by, running.decisions[APPROVAL].verb) == ("grace", verb)
    assert [(event["by"], event["verb"]) for event in decided(store)] == [("grace", verb)]


@pytest.mark.parametrize("nth", range(1, 8))
def test_an_answer_in_the_last_moment_counts_or_is_refused(
    s3: S3, environment: Environment, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The look finds the time to be over; the person began to answer when it was not."""
    store, clock, accepted = ObjectStore(s3), ObjectStore.now, []
    waiting(store, "approve")

    def answer() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "now", clock)
            with suppress(NothingToDecide):
                accepted.append(decide.run("toy", environment, "advance", by="grace", reason="seen"))

    monkeypatch.setattr(ObjectStore, "now", lambda store: clock(store) + timedelta(seconds=1200))
    with acting_before(nth, answer, monkeypatch):
        assert approve.look(RELEASE, environment)["done"]

    running = StateFile(store, "toy").read().release
    assert running
    assert running.decisions[APPROVAL].by == ("grace" if accepted else "nobody")
    assert [event["by"] for event in decided(store)] == ["grace" if accepted else "nobody"]


def test_the_question_holds_the_claim_once_and_shows_the_evidence(s3: S3, environment: Environment) -> None:
    store = ObjectStore(s3)
    waiting(store, "benchmark")

    first, second = approve.ask(RELEASE, environment), approve.ask(RELEASE, environment)

    assert first["needed"]
    assert first["until"] == second["until"]
    assert first["subject"] == f"May toy version {VERSION} begin its canary?"
    assert "**build toy 20260102000000**, asked by ada" in first["body"]
    assert [event["what"] for event in Events(store, "toy").read()] == ["planned", "approval asked"]


def test_a_question_that_was_answered_is_not_asked_again(s3: S3, environment: Environment) -> None:
    """A task that died after it had asked is run again when the answer is there."""
    store = ObjectStore(s3)
    waiting(store, "approve")
    decide.run("toy", environment, "advance", by="grace", reason="yes")

    assert approve.ask(RELEASE, environment) == {"needed": False}
    claim = StateFile(store, "toy").read().claim
    assert claim
    assert claim.held_until is None
    assert "approval asked" not in [event["what"] for event in Events(store, "toy").read()]


@pytest.mark.parametrize("nth", range(1, 12))
def test_who_asks_is_heard_even_if_it_dies_at_any_moment(
    s3: S3, environment: Environment, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    store = ObjectStore(s3)
    waiting(store, "benchmark")
    with acting_before(nth, die, monkeypatch), suppress(Killed):
        approve.ask(RELEASE, environment)

    approve.ask(RELEASE, environment)
    assert {event["what"] for event in Events(store, "toy").read()} >= {"approval asked"}


def test_a_release_that_is_asked_about_is_neither_taken_over_nor_ended(s3: S3, environment: Environment) -> None:
    """Nobody renews the claim while Airflow is down; the hold keeps it until its own end."""
    store = ObjectStore(s3)
    state = waiting(store, "approve", expired=True)
    other = Release("toy", VERSION + 1, Kind.BUILD, "run-2")

    with pytest.raises(ClaimHeld):
        take(StateFile(store, "toy"), store, other, "plan", 60, begins=True)
    assert orphan.return_orphan("toy", store, environment) is None
    assert StateFile(store, "toy").read() == state

    take(StateFile(store, "toy"), store, Release("toy", 1, Kind.RESTORE, "run-3"), "plan", 60, begins=True)
    with pytest.raises(Superseded):
        approve.look(RELEASE, environment)


def test_an_extension_moves_the_end_and_leaves_the_question_open(s3: S3, environment: Environment) -> None:
    store = ObjectStore(s3)
    before = waiting(store, "watch 10")
    decide.run("toy", environment, "extend", by="ada", reason="more traffic at noon", seconds=900)

    after = StateFile(store, "toy").read()
    assert before.claim
    assert before.claim.held_until
    assert after.claim
    assert after.claim.held_until == before.claim.held_until + timedelta(seconds=900)
    assert after.release
    assert after.release.extended_s == {"10": 900.0}
    assert waiting_for(after, store.now()) == "10"


@pytest.mark.parametrize(
    ("phase", "running", "held_for_s"),
    [
        ("watch 10", {}, -1),
        ("watch 10", {"verdicts": {"10": {"action": "advance"}}}, 60),
        ("watch 100", {"outcome": "rolled_back"}, 60),
        ("shift 10", {}, 60),
        ("watch 10", {"decisions": {"10": Decision(verb="advance", by="a", reason="", at=NEW_YEAR)}}, 60),
    ],
)
def test_an_answer_that_nobody_waits_for_is_refused(
    s3: S3, environment: Environment, phase: str, running: dict[str, Any], held_for_s: float
) -> None:
    store = ObjectStore(s3)
    before = waiting(store, phase, held_for_s=held_for_s, **running)

    with pytest.raises(NothingToDecide, match="toy waits for no decision: its release run-1#0 is in"):
        decide.run("toy", environment, "advance", by="ada", reason="please")
    assert StateFile(store, "toy").read() == before
    assert decided(store) == []


def test_an_answer_to_an_earlier_run_is_no_answer_to_this_one(s3: S3, environment: Environment) -> None:
    waiting(ObjectStore(s3), "approve")

    with pytest.raises(NothingToDecide, match="run-1#0 is being released now, not run-0#0"):
        decide.run("toy", environment, "advance", by="ada", reason="yes", run="run-0#0")


def held(verb: str) -> Running:
    decision = Decision.model_validate({"verb": verb, "by": "ada", "reason": "known", "at": datetime.now(UTC)})
    return Running(
        run_id="r", clear_number=0, version=2, kind=Kind.BUILD, spec_digest="s", checkpoint="c", fleet="green",
        first_release=False, stages=[10, 100], started_at=datetime.now(UTC), decisions={"10": decision},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "look", "action"),
    [
        ("advance", GATHERING, "advance"),
        ("roll_back", GATHERING, "rollback"),
        ("advance", {**GATHERING, "verdict": "rollback", "action": "rollback"}, "rollback"),
        ("roll_back", {**GATHERING, "verdict": "advance", "action": "advance"}, "rollback"),
        ("advance", {**GATHERING, "verdict": "advance", "action": "advance"}, "advance"),
        ("advance", {**GATHERING, "action": "rollback"}, "advance"),
        ("advance", {**GATHERING, "action": "rollback", "unproved": ["green-1 restarted"]}, "rollback"),
        ("advance", {**GATHERING, "unproved": ["green-1 restarted"]}, None),
        ("roll_back", {**GATHERING, "unproved": ["green-1 restarted"]}, "rollback"),
    ],
)
def test_a_person_may_send_any_canary_back_and_advance_what_is_open(
    verb: str, look: dict[str, Any], action: str | None
) -> None:
    assert by_person(held(verb), 10, look)["action"] == action
    assert by_person(held(verb), 50, look)["action"] == look["action"], "another stage is none of it"


@pytest.mark.parametrize(
    ("approval", "point", "verb", "verdict", "passes"),
    [
        ("none", "before_full", None, None, True),
        ("before_canary", "before_full", None, None, True),
        ("before_full", "before_full", None, None, False),
        ("before_full", "before_full", "roll_back", None, False),
        ("before_full", "before_full", "advance", None, True),
        ("before_full", "before_full", "advance", "rollback", False),
        ("before_canary", "before_canary", None, None, False),
    ],
)
def test_a_task_marked_success_by_hand_is_no_approval(
    approval: str, point: str, verb: str | None, verdict: str | None, passes: bool
) -> None:
    running = held(verb or "advance")
    decisions = {APPROVAL: running.decisions["10"]} if verb else {}
    verdicts = {"10": {"action": verdict, "reason": "bad"}} if verdict else {}
    running = running.model_copy(update={"approval": approval, "decisions": decisions, "verdicts": verdicts})

    if passes:
        require_approval(running, point)
    else:
        with pytest.raises(NotApproved):
            require_approval(running, point)


def test_the_commands_answer_for_a_person_at_a_terminal(s3: S3, environment: Environment, tmp_path: Path) -> None:
    store, name = ObjectStore(s3), getpass.getuser()
    waiting(store, "approve")
    (tmp_path / "toy.yaml").write_text(json.dumps(toys.spec().model_dump(mode="json")))
    place = environment.model_dump(mode="json")
    place["s3"]["secret_access_key"] = "secret"
    (tmp_path / "environment.json").write_text(json.dumps(place))
    options = ["--environment", str(tmp_path / "environment.json"), "--configs", str(tmp_path), "--json"]

    def ran(*command: str) -> Any:
        return CliRunner().invoke(app, [*options, *command])

    assert ran("extend", "toy", "--seconds", "60", "--reason", "lunch").exit_code == 0
    answered = ran("approve", "toy", "--reason", "looks good")
    assert answered.exit_code == 0, answered.output
    assert json.loads(answered.stdout)["subject"] == "approval"
    assert [(event["verb"], event["by"], event["reason"]) for event in decided(store)] == [
        ("extend", name, "lunch"), ("advance", name, "looks good"),
    ]  # fmt: skip
    assert isinstance(ran("abort", "toy", "--reason", "too late").exception, NothingToDecide)
    assert ran("approve", "toy").exit_code == 2, "an answer says why"

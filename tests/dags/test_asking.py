"""The DAG of a model whose config asks for a person: where the question stands, and what each answer leads to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_steps import PROJECT, look

from model_release.errors import NotApproved, NothingToDecide, StoreUnavailable
from model_release.spec import ModelSpec
from model_release.spec_files import load_spec

CONFIG = Path(__file__).with_name("model_configs") / "echo.yaml"
RUN = datetime(2026, 5, 4, tzinfo=UTC)


def asking(approval: str) -> ModelSpec:
    spec = load_spec(CONFIG)
    canary = spec.canary.model_copy(update={"approval": approval, "approvers": ["grace"]})
    return spec.model_copy(update={"canary": canary})


def graph(approval: str) -> dict[str, set[str]]:
    import importlib.util

    location = importlib.util.spec_from_file_location("model_release_dag", PROJECT / "dags" / "model_release.py")
    assert location
    assert location.loader
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    dag = module.release_dag(asking(approval))
    return {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}


def test_before_the_canary_the_question_stands_between_bench_and_deploy() -> None:
    tasks = graph("before_canary")

    assert tasks["benchmark"] == {"approve"}
    assert tasks["build_or_restore"] == {"export", "benchmark", "approve"}
    assert tasks["approve"] == {"deploy"}


def test_before_all_of_the_traffic_every_way_into_the_last_stage_leads_through_the_question() -> None:
    tasks = graph("before_full")

    assert tasks["approve"] == {"canary_100.shift"}
    assert [task for task, after in tasks.items() if "canary_100.shift" in after] == ["approve"]
    assert {task for task, after in tasks.items() if "approve" in after} == {
        "first_stage", "canary_10.decide", "canary_50.decide",
    }  # fmt: skip


class Asked:
    """A library whose steps answer as told, and Airflow's side of a question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from model_release_airflow import approve, asking, steps, watch

        self.questions: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.late = False
        self.needed = True
        self.said: Exception | None = None
        self.looks: list[Any] = []
        for module in (approve, asking, steps, watch):
            monkeypatch.setattr(module, "library_step", self.step)
        monkeypatch.setattr(asking, "environment_of_task", lambda: "environment")
        monkeypatch.setattr(asking, "upsert_hitl_detail", lambda **question: self.questions.append(question))
        for module in (approve, watch):
            monkeypatch.setattr(module, "tell_people", lambda model: None)
        monkeypatch.setattr(steps, "tell_people", lambda model: None)

    def step(self, name: str) -> SimpleNamespace:
        if name == "decide":
            return SimpleNamespace(run=self._decide)
        if name == "approve":
            return SimpleNamespace(ask=self._ask, settle=self._settle)
        if name == "held":
            asked = {"subject": "held at 10 %", "body": "**evidence**"}
            return SimpleNamespace(question=lambda *_: asked)
        return SimpleNamespace(look=self._look)

    def _look(self, *_: Any) -> dict[str, Any]:
        found = self.looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def _ask(self, release: Any, environment: Any) -> dict[str, Any]:
        asked = {"needed": True, "subject": "May it?", "body": "**evidence**", "look_interval_s": 1, "hold_s": 60}
        return asked if self.needed else {"needed": False}

    def _settle(self, release: Any, environment: Any) -> dict[str, Any]:
        if self.said is not None:
            raise self.said
        return {"approval": "before_full"}

    def _decide(self, model: str, environment: Any, verb: str, **facts: Any) -> dict[str, Any]:
        if self.late:
            raise NothingToDecide(model, "it is over")
        self.decisions.append({"verb": verb, **facts})
        return {"verb": verb}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def context() -> Any:
    run = SimpleNamespace(
        run_id="r", logical_date=RUN, run_after=RUN, clear_number=0, triggering_user_name="ada", run_type="manual"
    )
    release = {"model": "echo", "version": 20260504000000, "kind": "build", "run_id": "r"}
    planned = {"release": release, "look_interval_s": 1, "longest_stage_s": 60}
    ti = SimpleNamespace(id="ti-1", xcom_pull=lambda **_: planned, xcom_push=lambda **_: None)
    return {"dag_run": run, "ti": ti, "task_instance": ti, "params": {}, "triggering_asset_events": {}}


def answer(option: str, **given: Any) -> dict[str, Any]:
    return {"chosen_options": [option], "params_input": given, "responded_by_user": {"id": "7", "name": "grace"}}


def approving() -> Any:
    from model_release_airflow.approve import ApproveRelease

    return ApproveRelease(spec=asking("before_full"), task_id="approve")


def watching() -> Any:
    from model_release_airflow.watch import WatchCanary

    return WatchCanary(spec=asking("none"), stage=10, task_id="watch")


def deferred(work: Any) -> Any:
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as caught:
        work()
    return caught.value.trigger


def test_an_approval_shows_the_evidence_to_the_assigned_and_goes_on_looking(asked: Asked) -> None:
    trigger = deferred(lambda: approving().execute(context()))

    assert trigger.serialize()[0] == "model_release_airflow.triggers.ApprovalTrigger"
    [question] = asked.questions
    assert (question["subject"], question["body"], question["options"]) == (
        "May it?", "**evidence**", ["Approve", "Reject"],
    )  # fmt: skip
    assert question["assigned_users"] == [{"id": "grace", "name": "grace"}]
    assert question["defaults"] == ["Reject"]
    assert list(question["params"]) == ["why"]


@pytest.mark.parametrize(("option", "verb"), [("Approve", "advance"), ("Reject", "roll_back")])
def test_an_answer_is_written_into_the_ledger_with_who_and_why(asked: Asked, option: str, verb: str) -> None:
    approving().answered(context(), answer(option, why="I looked"))

    assert asked.decisions == [{"verb": verb, "by": "grace", "reason": "I looked", "seconds": 0.0, "run": "r#0"}]


def test_the_ledger_decides_and_not_the_answer(asked: Asked) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    asked.late, asked.said = True, NotApproved(1, "nobody said no")

    with pytest.raises(AirflowFailException, match="was not approved: nobody said no"):
        approving().answered(context(), answer("Approve", why="too late"))


def test_a_release_that_needs_no_approval_passes_at_once(asked: Asked) -> None:
    asked.needed = False

    assert approving().execute(context()) == {"approval": "before_full"}
    assert asked.questions == []


def test_a_stage_that_is_held_is_asked_about_and_looked_at_further(asked: Asked) -> None:
    held = {**look("inconclusive", done=False), "held_until": RUN.isoformat()}

    trigger = deferred(lambda: watching().judged(context(), held))

    assert trigger.asked
    [question] = asked.questions
    assert question["options"] == ["Advance", "Roll back", "Extend"]
    assert (question["subject"], question["defaults"]) == ("held at 10 %", ["Roll back"])


@pytest.mark.parametrize(("option", "verb"), [("Advance", "advance"), ("Roll back", "roll_back")])
def test_an_answer_to_a_held_stage_is_acted_on_at_once(asked: Asked, option: str, verb: str) -> None:
    asked.looks = [look("as the person says")]

    acted = watching().judged(context(), answer(option, why="known", extend_seconds=90))

    [decision] = asked.decisions
    assert (decision["verb"], decision["seconds"]) == (verb, 90.0)
    assert acted["action"] == "as the person says"
    assert asked.questions == []


@pytest.mark.parametrize(
    ("option", "found", "questions", "waits_asked"),
    [
        ("Advance", look("inconclusive", done=False), 0, True),  # a replica is not proved, say
        ("Advance", StoreUnavailable("looks", "it is away"), 0, True),
        ("Extend", look("inconclusive", done=False), 1, True),
        ("Extend", StoreUnavailable("looks", "it is away"), 0, False),
    ],
)
def test_a_stage_that_an_answer_did_not_end_is_looked_at_further(
    asked: Asked, option: str, found: Any, questions: int, waits_asked: bool
) -> None:
    asked.looks = [found]

    trigger = deferred(lambda: watching().judged(context(), answer(option, extend_seconds=90)))

    assert (len(asked.questions), trigger.asked) == (questions, waits_asked)


def test_the_looks_that_wait_for_an_answer_do_not_end_at_the_hold_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from model_release_airflow import triggers

    async def environment() -> str:
        return "environment"

    held = {**look("inconclusive", done=False), "held_until": RUN.isoformat()}
    looks = [held, held, look("advance")]
    monkeypatch.setattr(triggers, "environment_of_trigger", environment)
    monkeypatch.setattr(triggers, "_look_once", lambda *_: looks.pop(0))
    monkeypatch.setattr(triggers, "SETTLES_S", 0.0)
    release = {"model": "echo", "version": 1, "kind": "build", "run_id": "r"}

    async def first(asked: bool) -> Any:
        trigger = triggers.LookTrigger(release, 10, 0.01, asked)
        return (await anext(trigger.run())).payload

    assert asyncio.run(first(asked=False)) == held
    assert asyncio.run(first(asked=True))["action"] == "advance"


@pytest.mark.parametrize(("holder", "ends"), [("r#0", "advance"), ("other#0", None)])
def test_a_look_that_another_look_of_the_same_release_overtook_is_no_end(
    monkeypatch: pytest.MonkeyPatch, holder: str, ends: str | None
) -> None:
    """Two triggerers for a moment, or the guard that looked in a silent release's place; another release is an end."""
    import asyncio

    from model_release.errors import Superseded
    from model_release_airflow import triggers

    async def environment() -> str:
        return "environment"

    looks: list[Any] = []

    def overtaken_first(*_: Any) -> dict[str, Any]:
        looks.append(None)
        if len(looks) == 1:
            raise Superseded("echo", 4, 5, holder)
        return look("advance")

    monkeypatch.setattr(triggers, "environment_of_trigger", environment)
    monkeypatch.setattr(triggers, "SETTLES_S", 0.0)
    for name in ("_look_once", "_approval_once", "_turn_once"):
        monkeypatch.setattr(triggers, name, overtaken_first)
    release = {"model": "echo", "version": 1, "kind": "build", "run_id": "r"}

    async def payload(trigger: Any) -> Any:
        return (await anext(trigger.run())).payload

    for trigger in (
        triggers.LookTrigger(release, 10, 0.01),
        triggers.ApprovalTrigger(release, 0.01),
        triggers.TurnTrigger(release, {}, 0.01),
    ):
        looks.clear()
        got = asyncio.run(payload(trigger))
        assert got.get("action") == ends
        assert ("error" in got) == (ends is None)


def test_an_event_comes_no_sooner_than_airflow_has_seen_the_task_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    import time

    from model_release_airflow import triggers

    async def environment() -> str:
        return "environment"

    monkeypatch.setattr(triggers, "environment_of_trigger", environment)
    monkeypatch.setattr(triggers, "_look_once", lambda *_: look("advance"))
    monkeypatch.setattr(triggers, "_approval_once", lambda *_: look("advance"))
    monkeypatch.setattr(triggers, "_turn_once", lambda *_: {"done": True})
    monkeypatch.setattr(triggers, "_waits_for", lambda *_: None)
    monkeypatch.setattr(triggers, "SETTLES_S", 0.3)
    release = {"model": "echo", "version": 1, "kind": "build", "run_id": "r"}

    async def seconds(trigger: Any) -> float:
        began = time.monotonic()
        await anext(trigger.run())
        return time.monotonic() - began

    for trigger in (
        triggers.LookTrigger(release, 10, 0.01),
        triggers.ApprovalTrigger(release, 0.01),
        triggers.TurnTrigger(release, {}),
        triggers.ClaimTrigger("echo"),
    ):
        assert asyncio.run(seconds(trigger)) >= 0.3

"""Whole runs of a release DAG with scripted steps: which steps were called, in which order, and how the run ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from scripted_steps import PROJECT, Script, look

from model_release.errors import LoadFailed, NotAsAsked, ParityFailed, RolledBack, StoreUnavailable

BUILD = ["plan", "export", "validate", "publish", "benchmark", "deploy"]
RED = NotAsAsked("echo", ["version 1 has the traffic"])
Run = Callable[..., tuple[str, dict[str, str]]]
_days = count()


def release_dag() -> Any:
    """Read the DAG anew: a run in this process leaves its params in the DAG's object."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(PROJECT / "dags" / "model_release.py").dags["release_echo"]
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    return dag


@pytest.fixture
def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the DAG in this process and returns (run state, task states by id)."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    sleep = time.sleep
    # dag.test() waits a second each time that it only had tasks to skip.
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))

    def run_dag(logical_date: datetime | None = None, **conf: Any) -> tuple[str, dict[str, str]]:
        date = logical_date or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=next(_days))
        finished = release_dag().test(logical_date=date, run_conf=conf)
        with create_session() as session:
            mine = (TaskInstance.run_id == finished.run_id, TaskInstance.dag_id == "release_echo")
            states = {task.task_id: str(task.state) for task in session.scalars(select(TaskInstance).where(*mine))}
        return str(finished.state), states

    return run_dag


def test_the_first_release_has_one_stage_of_100(run: Run, script: Script) -> None:
    script.stages = [100]

    state, tasks = run()

    assert (state, script.calls) == ("success", [*BUILD, "shift 100", "look 100", "promote", "finish"])
    assert {task for task, ended in tasks.items() if ended == "skipped"} == {
        *(f"canary_{stage}.{part}" for stage in (10, 50) for part in ("shift", "watch", "decide")),
        "roll_back",
    }


def test_a_healthy_release_goes_through_every_stage(run: Run, script: Script) -> None:
    script.looks[10] = [look("inconclusive", done=False), look("inconclusive", done=False), look("advance")]

    state, tasks = run(datetime(2027, 2, 3, 4, 5, 6, tzinfo=UTC))

    stages = ["shift 10", "look 10", "look 10", "look 10", "shift 50", "look 50", "shift 100", "look 100"]
    assert (state, script.calls) == ("success", [*BUILD, *stages, "promote", "finish"])
    assert tasks["roll_back"] == "skipped"
    assert {release.version for release in script.releases} == {20270203040506}
    assert len({release.holder for release in script.releases}) == 1


@pytest.mark.parametrize(("stage", "later"), [(10, (50, 100)), (50, (100,)), (100, ())])
def test_a_verdict_against_the_canary_rolls_back_and_the_run_is_red(
    run: Run, script: Script, stage: int, later: tuple[int, ...]
) -> None:
    script.looks[stage] = [look("rollback", "errors 9 % against 0 %")]
    script.fail("finish", RolledBack("echo", 2, "errors 9 % against 0 %"))

    state, tasks = run()

    assert state == "failed"
    assert script.calls[-3:] == [f"look {stage}", "roll_back", "finish"]
    assert script.reasons == [""]
    skipped = {task for task, ended in tasks.items() if ended == "skipped"}
    parts = ("shift", "watch", "decide")
    assert skipped == {*(f"canary_{other}.{part}" for other in later for part in parts), "promote"}


def test_finish_alone_gives_the_run_its_colour(run: Run, script: Script) -> None:
    script.looks[10] = [look("rollback")]
    script.fail("roll_back", StoreUnavailable("state.json", "it is down"))

    state, tasks = run()

    assert tasks["roll_back"] == "failed"
    assert script.calls[-1] == "finish"
    assert state == "success", "finish compares what serves with what was asked; no other task counts"


def test_a_failed_deploy_is_undone(run: Run, script: Script) -> None:
    script.fail("deploy", LoadFailed("green-1", "echo", 2, "no memory"))
    script.fail("finish", RED)

    state, tasks = run()

    assert (state, script.calls) == ("failed", [*BUILD, "roll_back", "finish"])
    assert "the replica green-1 refused to load" in script.reasons[0]
    assert tasks["first_stage"] == tasks["canary_100.shift"] == tasks["promote"] == "upstream_failed"


@pytest.mark.parametrize("call", ["shift 50", "look 50", "promote"])
def test_any_failure_after_deploy_goes_back(run: Run, script: Script, call: str) -> None:
    script.fail(call, LoadFailed("green-1", "echo", 2, "gone"))
    script.fail("finish", RED)

    state, _ = run()

    assert state == "failed"
    assert script.calls[-3:] == [call, "roll_back", "finish"]
    assert "the replica green-1" in script.reasons[0]


def test_a_failed_export_skips_the_rest_and_leaves_the_fleets_alone(run: Run, script: Script) -> None:
    script.fail("export", ParityFailed("echo", "y", 3, 0.1, "0.01", "element 4"))
    script.fail("finish", RED)

    state, tasks = run()

    assert (state, script.calls) == ("failed", ["plan", "export", "finish"])
    assert tasks["roll_back"] == "skipped"
    assert tasks["deploy"] == "upstream_failed"


def test_a_step_that_touches_nothing_is_tried_again_when_a_store_was_away(run: Run, script: Script) -> None:
    script.fail("publish", StoreUnavailable("s3", "it is down"))

    state, _ = run()

    assert state == "success"
    assert script.calls.count("publish") == 2


def test_a_look_that_got_no_answer_is_taken_again(run: Run, script: Script) -> None:
    script.fail("look 10", StoreUnavailable("s3", "it is down"))

    state, _ = run()

    assert state == "success"
    assert script.calls.count("look 10") == 2


def test_a_refused_plan_touches_nothing(run: Run, script: Script) -> None:
    script.fail("plan", RED)
    script.fail("finish", RED)

    state, _ = run()

    assert (state, script.calls) == ("failed", ["plan", "finish"])


def test_a_restore_goes_straight_to_deploy(run: Run, script: Script) -> None:
    script.kind, script.skip_benchmark, script.stages = "restore", True, [100]

    state, tasks = run(restore_version=20260101000000, reason="wrong labels")

    assert (state, script.calls) == ("success", ["plan", "deploy", "shift 100", "look 100", "promote", "finish"])
    assert tasks["export"] == tasks["benchmark"] == "skipped"
    assert script.releases[0].version == 20260101000000
    assert (str(script.releases[0].kind), script.releases[0].reason) == ("restore", "wrong labels")


def test_a_restore_that_was_never_benchmarked_is_benchmarked(run: Run, script: Script) -> None:
    script.kind, script.stages = "restore", [100]

    state, _ = run(restore_version=20260101000000, reason="wrong labels")

    assert state == "success"
    assert script.calls[:3] == ["plan", "benchmark", "deploy"]


def test_a_restore_without_a_reason_is_refused(run: Run, script: Script) -> None:
    state, _ = run(restore_version=20260101000000)

    assert (state, script.calls) == ("failed", [])


def test_a_checkpoint_of_the_form_is_the_releases(run: Run, script: Script) -> None:
    run(checkpoint="s3://training/echo/other.safetensors")

    assert {release.checkpoint for release in script.releases} == {"s3://training/echo/other.safetensors"}

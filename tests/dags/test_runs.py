"""Whole runs of a release DAG with scripted steps: which steps were called, in which order, and how the run ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from scripted_steps import PROJECT, Run, Script, look

from model_release.errors import CanaryQueued, LoadFailed, NotAsAsked, ParityFailed, RolledBack, StoreUnavailable
from model_release.spec_files import load_spec

BUILD = ["plan", "export", "validate", "publish", "benchmark", "deploy"]
RED = NotAsAsked("echo", ["version 1 has the traffic"])


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
    script.skip_benchmark, script.stages = True, [100]

    state, tasks = run(restore_version=20260101000000, reason="wrong labels")

    assert (state, script.calls) == ("success", ["plan", "deploy", "shift 100", "look 100", "promote", "finish"])
    assert tasks["export"] == tasks["benchmark"] == "skipped"
    assert script.releases[0].version == 20260101000000
    assert (str(script.releases[0].kind), script.releases[0].reason) == ("restore", "wrong labels")


def test_a_restore_that_was_never_benchmarked_is_benchmarked(run: Run, script: Script) -> None:
    script.stages = [100]

    state, _ = run(restore_version=20260101000000, reason="wrong labels")

    assert state == "success"
    assert script.calls[:3] == ["plan", "benchmark", "deploy"]


def test_a_restore_without_a_reason_is_refused(run: Run, script: Script) -> None:
    state, _ = run(restore_version=20260101000000)

    assert (state, script.calls) == ("failed", ["finish"])


def test_a_checkpoint_of_the_form_is_the_releases(run: Run, script: Script) -> None:
    run(checkpoint="s3://training/echo/other.safetensors")

    assert {release.checkpoint for release in script.releases} == {"s3://training/echo/other.safetensors"}


@pytest.mark.parametrize(
    ("marked", "calls"),
    [
        ("^plan$", []),
        ("^deploy$", [*BUILD[:-1], "shift 10", "look 10"]),
        (r"^canary_10\.watch$", [*BUILD, "shift 10"]),
        ("^promote$", [*BUILD, *(f"{part} {stage}" for stage in (10, 50, 100) for part in ("shift", "look"))]),
    ],
)
def test_a_task_that_was_set_to_success_by_hand_leads_back(
    run: Run, script: Script, marked: str, calls: list[str]
) -> None:
    """`finish` compares what serves with what was asked, and the ledger refuses what was not judged: here by script."""
    script.fail("shift 50", RED) if marked == "^deploy$" else None
    script.fail("finish", RED)

    state, tasks = run(marked=marked)

    assert state == "failed"
    assert script.calls[: len(calls)] == calls
    if marked == "^plan$":
        assert script.calls == []
        assert tasks["build_or_restore"] == "failed"
    else:
        assert script.calls[-2:] == ["roll_back", "finish"]


def test_a_roll_back_that_was_set_to_success_by_hand_makes_no_run_green(run: Run, script: Script) -> None:
    script.looks[10] = [look("rollback")]
    script.fail("finish", RED)

    state, _ = run(marked="^roll_back$")

    assert state == "failed"
    assert script.calls[-1] == "finish"


def test_a_dry_run_comes_to_the_canary_and_goes_back_green(run: Run, script: Script) -> None:
    state, tasks = run(dry_run=True)

    assert (state, script.calls) == ("success", [*BUILD, "roll_back", "finish"])
    assert script.reasons == [""]
    assert {tasks[f"canary_{stage}.shift"] for stage in (10, 50, 100)} == {"skipped"}


def test_a_release_without_a_benchmark_goes_from_publish_to_deploy(run: Run, script: Script) -> None:
    script.skip_benchmark = True

    state, tasks = run(benchmark=False)

    assert (state, tasks["benchmark"]) == ("success", "skipped")
    assert script.calls[:6] == ["plan", "export", "validate", "publish", "deploy", "shift 10"]


@pytest.mark.parametrize(
    "form",
    [
        {"restore_version": 123},
        {"restore_version": "20261301000000"},
        {"checkpoint": "http://elsewhere/model.pt"},
        {"min_bake_s": -1},
        {"max_bake_s": 0},
        {"dry_run": "perhaps"},
        {"reason": None},
    ],
    ids=str,
)
def test_a_value_that_does_not_hold_makes_no_run(form: dict[str, Any]) -> None:
    from airflow.sdk.definitions.param import ParamsDict
    from airflow.sdk.exceptions import ParamValidationError

    from model_release_airflow.schedules import params_of

    params = ParamsDict(dict(params_of(load_spec(PROJECT / "tests" / "dags" / "model_configs" / "echo.yaml"))))
    [(name, value)] = form.items()

    with pytest.raises(ParamValidationError, match=f"Invalid input for param {name}"):
        params[name] = value


BEHIND = {"done": False, "behind": {"model": "other"}, "wait_s": 60, "lines": ["other has its canary there"]}


def test_a_canary_waits_for_its_turn_in_the_triggerer_where_a_store_that_is_away_ends_nothing(
    run: Run, script: Script
) -> None:
    script.turns = [BEHIND, StoreUnavailable("turns/default", "it is away"), {"done": True}]

    state, _ = run()

    assert (state, script.turns) == ("success", [])
    assert script.calls.count("deploy") == 1


def test_a_canary_whose_turn_did_not_come_goes_back_with_its_sentence_and_was_never_deployed(
    run: Run, script: Script
) -> None:
    script.turns = [BEHIND, CanaryQueued("echo", "default", "other", 20260101000000, 1, 60)]
    script.fail("finish", RED)

    state, tasks = run()

    assert (state, tasks["deploy"]) == ("failed", "failed")
    assert "deploy" not in script.calls
    [reason] = script.reasons
    assert reason.startswith("deploy: echo waited 60 s for its turn at the fleet pair 'default', where other")

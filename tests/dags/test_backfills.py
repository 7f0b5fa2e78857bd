"""A backfill is the way back to a date: what Airflow's record says, and what its runs make of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_steps import Run, Script

from model_release.errors import AlreadyStable, ClaimHeld, OrderStale
from model_release.identity import Kind

RESTORE = ["plan", "deploy", "shift 100", "look 100", "promote", "finish"]
DAY = datetime(2026, 3, 20, 3, tzinfo=UTC)
VERSION = 20260320030000
Started = Callable[[Any, Any], None]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the tasks' logs hold: Airflow writes its own lines to the output."""
    return lambda: capsys.readouterr().out + caplog.text


def of_backfill(
    *dates: datetime,
    conf: dict[str, Any] | None = None,
    not_run: tuple[datetime, ...] = (),
    not_yet: tuple[datetime, ...] = (),
    cleared: bool = False,
    asked_ago: timedelta = timedelta(0),
    told: bool = True,
) -> Started:
    """
    Make the run one of a backfill over these dates, as Airflow's record keeps it, and start it as the scheduler does.

    `not_run` are dates that Airflow leaves as they are, `not_yet` those whose runs it has still to create. `cleared`:
    it was started before, and cleared since.
    """

    def start(dag_run: Any, session: Any) -> None:
        from airflow.models.backfill import Backfill, BackfillDagRun

        from model_release_airflow import backfills

        record = Backfill(
            dag_id=dag_run.dag_id,
            from_date=min(dates),
            to_date=max([*dates, *not_yet]),
            dag_run_conf=conf,
            created_at=datetime.now(UTC) - asked_ago,
            triggering_user_name="ada",
        )
        session.add(record)
        session.flush()
        for ordinal, date in enumerate([*dates, *not_run], start=1):
            reason = "already exists" if date in not_run else None
            asked = {"backfill_id": record.id, "logical_date": date, "sort_ordinal": ordinal}
            session.add(BackfillDagRun(dag_run_id=None, exception_reason=reason, **asked))
        dag_run.backfill_id, dag_run.run_type = record.id, "backfill"
        if conf is not None:
            dag_run.conf = conf
        session.commit()
        if told:
            backfills.on_dag_run_running(dag_run=dag_run)
        if cleared:
            dag_run.clear_number += 1
            backfills.on_dag_run_running(dag_run=dag_run)

    return start


def test_a_backfill_of_a_sealed_date_restores_that_dates_version(run: Run, script: Script) -> None:
    script.sealed, script.skip_benchmark, script.stages = {VERSION}, True, [100]

    state, tasks = run(DAY, started=of_backfill(DAY, conf={"reason": "wrong labels"}))

    assert (state, script.calls) == ("success", RESTORE)
    assert tasks["export"] == tasks["benchmark"] == tasks["roll_back"] == "skipped"
    [release] = {release.to_dict()["version"]: release for release in script.releases}.values()
    assert (release.version, release.kind, release.reason) == (VERSION, Kind.RESTORE, "wrong labels")
    assert release.by.startswith("backfill ")
    assert release.by.endswith(" by ada")
    assert release.asked_at is None


def test_where_an_earlier_try_of_the_run_went_back_its_branches_do_not_skip_the_short_path(
    run: Run, script: Script
) -> None:
    script.sealed, script.skip_benchmark, script.stages = {VERSION}, True, [100]

    def cleared(dag_run: Any, session: Any) -> None:
        from airflow.models.xcom import XComModel

        of_backfill(DAY, conf={"reason": "wrong labels"}, cleared=True)(dag_run, session)
        followed = {"followed": ["roll_back"]}
        ids = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "session": session}
        for stage in (10, 50):
            XComModel.set("skipmixin_key", followed, task_id=f"canary_{stage}.decide", **ids)

    state, tasks = run(DAY, started=cleared)

    assert (state, tasks["canary_10.decide"], tasks["canary_100.decide"]) == ("success", "skipped", "success")
    assert script.calls == RESTORE


def test_a_sealed_version_that_never_was_live_takes_all_stages(run: Run, script: Script) -> None:
    script.sealed, script.skip_benchmark = {VERSION}, True

    state, _ = run(DAY, started=of_backfill(DAY))

    assert state == "success"
    assert [call for call in script.calls if call.startswith("shift")] == ["shift 10", "shift 50", "shift 100"]


def test_a_backfill_of_a_date_that_was_never_sealed_builds_it_however_old(run: Run, script: Script) -> None:
    state, _ = run(DAY, started=of_backfill(DAY))

    assert state == "success"
    assert script.calls[:4] == ["plan", "export", "validate", "publish"]
    assert (script.releases[0].kind, script.releases[0].backfill) == (Kind.BUILD, True)
    assert {release.kind for release in script.releases} == {Kind.BUILD}, "also after publish has sealed it"


@pytest.mark.parametrize("older", [1, 2])
def test_of_several_dates_only_the_newest_moves_traffic_and_the_others_say_why(
    run: Run, script: Script, older: int, said: Callable[[], str]
) -> None:
    dates = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)]
    script.sealed = {VERSION, 20260321030000, 20260322030000}

    state, tasks = run(dates[2 - older], started=of_backfill(*dates))

    assert (state, script.calls) == ("success", [])
    assert set(tasks.values()) == {"skipped"}
    assert "asks for 3 dates, and only the newest of them, 2026-03-22 03:00 UTC" in said()

    state, _ = run(dates[2], started=of_backfill(*dates))

    assert state == "success"
    assert script.releases[0].version == 20260322030000


def test_a_newer_date_that_airflow_did_not_run_again_still_is_the_one_that_was_asked(run: Run, script: Script) -> None:
    state, tasks = run(DAY, started=of_backfill(DAY, not_run=(DAY + timedelta(days=1),)))

    assert (state, script.calls) == ("success", [])
    assert tasks["plan"] == tasks["finish"] == "skipped"


def test_a_run_that_starts_before_airflow_has_created_the_newest_dates_run_leaves_it_the_traffic(
    run: Run, script: Script, said: Callable[[], str]
) -> None:
    state, tasks = run(DAY, started=of_backfill(DAY, not_yet=(DAY + timedelta(days=1),)))

    assert (state, script.calls) == ("success", [])
    assert set(tasks.values()) == {"skipped"}
    assert "asks for 2 dates, and only the newest of them, 2026-03-21 03:00 UTC" in said()


def test_old_conf_that_airflow_keeps_on_the_run_is_not_what_the_backfill_asks(run: Run, script: Script) -> None:
    script.sealed, script.skip_benchmark = {VERSION}, True
    old = {"restore_version": 20260101000000, "reason": "of last month", "checkpoint": "s3://a/b", "emergency": True}

    state, _ = run(DAY, started=of_backfill(DAY), **old)

    assert state == "success"
    assert (script.releases[0].version, script.releases[0].reason) == (VERSION, "")
    assert str(script.releases[0].mode) == "normal"


def test_a_backfill_that_names_another_version_than_its_dates_is_refused(
    run: Run, script: Script, said: Callable[[], str]
) -> None:
    conf = {"restore_version": 20260101000000, "reason": "r"}

    state, _ = run(DAY, started=of_backfill(DAY, conf=conf))

    assert (state, script.calls) == ("failed", ["finish"])
    assert f"a backfill puts back the version of its date, {VERSION}, not 20260101000000" in said()


@pytest.mark.parametrize(
    "order",
    [
        of_backfill(DAY, cleared=True),
        of_backfill(DAY, asked_ago=timedelta(days=2)),
    ],
    ids=["cleared-red-or-green", "waited-in-a-paused-dag"],
)
def test_an_order_that_may_be_out_of_date_says_since_when_it_stands(run: Run, script: Script, order: Started) -> None:
    script.sealed = {VERSION}
    script.fail("plan", OrderStale("echo", VERSION, "then", 20260401000000, "since"))

    state, _ = run(DAY, started=order)

    assert (state, script.calls) == ("failed", ["plan", "finish"])
    assert script.releases[0].asked_at is not None


def test_a_backfill_of_the_version_that_serves_is_skipped_and_says_so(
    run: Run, script: Script, said: Callable[[], str]
) -> None:
    script.sealed = {VERSION}
    script.fail("plan", AlreadyStable("echo", VERSION))

    state, tasks = run(DAY, started=of_backfill(DAY))

    assert (state, script.calls) == ("success", ["plan"])
    assert set(tasks.values()) == {"skipped"}
    assert "is stable already: there is nothing to release" in said()


def test_a_live_canary_beside_the_asked_version_is_no_reason_to_skip(run: Run, script: Script) -> None:
    script.sealed = {VERSION}
    script.fail("plan", AlreadyStable("echo", VERSION, canary=20260321030000))

    state, tasks = run(DAY, started=of_backfill(DAY))

    assert (state, tasks["plan"]) == ("failed", "failed")


def test_a_scheduler_without_the_plugin_makes_no_backfill_a_guess(
    run: Run, script: Script, said: Callable[[], str]
) -> None:
    state, _ = run(DAY, started=of_backfill(DAY, told=False))

    assert (state, script.calls) == ("failed", ["finish"])
    assert "it has not loaded plugins/model_release_plugin.py" in said()


def test_a_build_waits_in_the_triggerer_for_who_has_the_model(run: Run, script: Script) -> None:
    script.fail("plan", ClaimHeld("echo", "other#0", "watch 10", 60))
    script.holders = ["other#0, in watch 10"]

    state, _ = run()

    assert state == "success"
    assert script.calls[:3] == ["plan", "plan", "export"]
    assert script.holders == []


def test_runs_of_other_dags_and_of_no_backfill_are_left_as_they_are() -> None:
    from model_release_airflow import backfills

    conf = {"a": 1}
    others = [
        SimpleNamespace(dag_id="release_echo", run_type="scheduled", backfill=None, conf=conf),
        SimpleNamespace(dag_id="retrain_echo", run_type="backfill", backfill=object(), conf=conf),
    ]
    for other in others:
        backfills.on_dag_run_running(dag_run=other)

    assert [other.conf for other in others] == [conf, conf]


def test_a_second_backfill_of_a_run_counts_its_tries_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from model_release_airflow import backfills

    monkeypatch.setattr(backfills, "_newest_dag", lambda _: None)

    def record(number: int) -> Any:
        asked = [SimpleNamespace(logical_date=DAY)]
        facts = {
            "triggering_user_name": None,
            "created_at": DAY,
            "dag_run_conf": None,
            "from_date": DAY,
            "to_date": DAY,
        }
        return SimpleNamespace(id=number, backfill_dag_run_associations=asked, **facts)

    run = SimpleNamespace(dag_id="release_echo", run_type="backfill", conf=None, logical_date=DAY)
    seen = []
    for number, clear_number in ((1, 1), (1, 2), (2, 3), (2, 4)):
        run.backfill, run.clear_number = record(number), clear_number
        backfills.on_dag_run_running(dag_run=run)
        seen.append((run.conf["backfill"]["id"], run.conf["backfill"]["clear_number"]))

    assert seen == [(1, 1), (1, 1), (2, 3), (2, 3)]

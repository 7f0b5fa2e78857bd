"""
Production as a person runs it: the demo, then the ways in and back by Airflow's form, its questions and its backfills.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from model_release.identity import version_of
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from sandbox import airflow, show_backfill
from sandbox.airflow_rest import AirflowRest
from sandbox.demo import DIGITS
from sandbox.demo_summary import served_versions
from sandbox.errors import SandboxError
from sandbox.home import Home
from sandbox.settings import ROOT
from sandbox.supervisor import Supervisor
from tests.sandbox.conftest import Sandbox, free_base
from tests.sandbox.releasing import await_true

DEADLINE_S = 900


def demo(sandbox: Sandbox, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox.demo", *options],
        cwd=ROOT,
        env={**os.environ, **sandbox.variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def configs_of(sandbox: Sandbox) -> Path:
    return sandbox.home.folder / "model_configs"


def state_of(sandbox: Sandbox) -> State:
    return StateFile(ObjectStore(sandbox.environment.s3), DIGITS.model).read()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """All of production from nothing, Airflow and clients included; its model configs are a copy, to be edited."""
    started = Sandbox(Home(tmp_path_factory.mktemp("production")), free_base())
    shutil.copytree(ROOT / "include" / "model_configs", configs_of(started))
    # What a busy machine makes a client wait for is no error of production.
    patient = started.home.folder / "settings.yaml"
    patient.write_text("traffic: {deadline_s: 60}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_RELEASE_CONFIGS", str(configs_of(started)))
        patch.setenv("SANDBOX_SETTINGS", str(patient))
        try:
            started.must("up")
            yield started
        finally:
            started.run("down")
            assert started.pids() == []


@pytest.fixture(scope="module")
def released(production: Sandbox) -> subprocess.CompletedProcess[str]:
    return demo(production)


@pytest.fixture(scope="module")
def rolled_back(production: Sandbox, released: subprocess.CompletedProcess[str]) -> tuple[State, str]:
    """The state before a broken candidate, and what its demo said."""
    assert released.returncode == 0, released.stdout + released.stderr
    before = state_of(production)
    done = demo(production, "--broken")
    assert done.returncode == 0, done.stdout + done.stderr
    return before, done.stdout


@pytest.mark.timeout(2 * DEADLINE_S)
def test_airflow_puts_a_model_into_production_and_replaces_it_in_stages(
    production: Sandbox, released: subprocess.CompletedProcess[str]
) -> None:
    assert released.returncode == 0, released.stdout + released.stderr
    state = state_of(production)
    assert state.stable is not None
    assert [promotion.version for promotion in state.promotions][-1] == state.stable.version
    assert len(state.promotions) == 2
    assert set(served_versions(production.environment, DIGITS.model)) == {str(state.stable.version)}
    for stage in (10, 50, 100):
        assert re.search(rf"verdict +{stage} %: advance, so: advance", released.stdout), released.stdout


def test_no_client_saw_an_error_from_the_first_promotion_on(released: subprocess.CompletedProcess[str]) -> None:
    clients = re.search(r"clients +(\d+) requests since .*, (\d+) errors", released.stdout)

    assert clients, released.stdout
    assert int(clients.group(1)) > 1000
    assert int(clients.group(2)) == 0, released.stdout


@pytest.mark.timeout(DEADLINE_S)
def test_the_canarys_gate_stops_a_candidate_that_passed_everything_before(
    production: Sandbox, rolled_back: tuple[State, str]
) -> None:
    before, said = rolled_back

    assert "as it should be: the canary's gate stopped" in said
    assert re.search(r"verdict +(10|50|100) %: rollback, so: rollback\n +errors: \d+ of \d+ canary requests", said), (
        said
    )
    after = state_of(production)
    assert after.stable == before.stable
    assert after.canary is None
    assert len(after.rejected) == 1


def test_no_client_saw_an_error_of_the_broken_candidate(rolled_back: tuple[State, str]) -> None:
    _, said = rolled_back

    assert re.search(r"clients .*, 0 errors\n", said), said


class Asked:
    """Airflow, as a person asks it for releases of the example."""

    def __init__(self, production: Sandbox) -> None:
        self.production = production
        self.rest = AirflowRest(airflow.url(production.settings))
        self.store = ObjectStore(production.environment.s3)

    def run(self, **conf: Any) -> tuple[str, str, dict[str, str]]:
        """Trigger a run by the form, and return its id, its state, and those of its tasks."""
        run = self.rest.trigger(DIGITS.release_dag, conf)
        return run, *self.ended(run)

    def backfilled(self, date: datetime, **conf: Any) -> tuple[str, dict[str, str]]:
        """Backfill a date, and return the state of its run, and those of its tasks."""
        show_backfill.backfill(self.rest, date, conf)
        return self.ended(show_backfill.run_of(self.rest, date))

    def edit(self, **canary: Any) -> None:
        """Edit the model's config, unless it is so already, and wait until Airflow has the DAG that it makes."""
        path = configs_of(self.production) / f"{DIGITS.model}.yaml"
        config = yaml.safe_load(path.read_text())
        if config["canary"].items() >= canary.items():
            return
        before = self.bundle_version()
        config["canary"].update(canary)
        path.write_text(yaml.safe_dump(config))
        await_true(lambda: self.bundle_version() != before, "Airflow has read the edited config", 120)

    def bundle_version(self) -> str:
        return str(self.rest.call("GET", f"/dags/{DIGITS.release_dag}")["bundle_version"])

    def looks(self, stage: int) -> int:
        """Say how often the running release was looked at in a stage."""
        running = state_of(self.production).release
        assert running
        kept, _ = Looks(self.store, DIGITS.model, running.version, running.holder).read(stage)
        return len(kept.looks) if kept else 0

    def question(self, run: str, stage: int) -> dict[str, Any]:
        """Wait until Airflow asks a person about a run, and while the person thinks; return what it shows."""
        path = f"{self.path(run)}/hitlDetails"
        await_true(lambda: bool(self.rest.call("GET", path)["hitl_details"]), "Airflow shows the question", 300)
        [shown], before = self.rest.call("GET", path)["hitl_details"], self.looks(stage)
        await_true(lambda: self.looks(stage) > before + 2, "the looks go on while the person thinks", 60)
        return dict(shown)

    def answer(self, run: str, task: str, option: str, **given: Any) -> None:
        """Answer Airflow's question, as its form does."""
        answer = {"chosen_options": [option], "params_input": given}
        self.rest.call("PATCH", f"{self.path(run)}/taskInstances/{task}/-1/hitlDetails", answer)

    def path(self, run: str) -> str:
        return f"/dags/{DIGITS.release_dag}/dagRuns/{quote(run, safe='')}"

    def ended(self, run: str) -> tuple[str, dict[str, str]]:
        state = self.rest.follow(DIGITS.release_dag, run, lambda _: None)
        return state, self.rest.task_states(DIGITS.release_dag, run)

    def checkpoint(self, date: datetime) -> str:
        """Train one, of which Airflow hears nothing, and return its address."""
        show_backfill.train(self.production.environment, [date])
        return f"s3://training/{DIGITS.model}/{date:%Y-%m-%d}/model.safetensors"

    def events(self, run: str) -> list[dict[str, Any]]:
        """What the ledger says of a run."""
        events = Events(self.store, DIGITS.model).read()
        return [event for event in events if str(event.get("run", "")).startswith(f"{run}#")]

    def served(self) -> set[str]:
        return set(served_versions(self.production.environment, DIGITS.model))


@pytest.fixture(scope="module")
def asked(production: Sandbox, rolled_back: tuple[State, str]) -> Asked:
    return Asked(production)


@pytest.mark.timeout(DEADLINE_S)
def test_a_dry_run_of_the_form_proves_a_canary_without_traffic_and_takes_it_away(asked: Asked) -> None:
    before = state_of(asked.production)
    checkpoint = asked.checkpoint(show_backfill.past_slots(before, 3)[0])

    run, state, tasks = asked.run(checkpoint=checkpoint, dry_run=True, benchmark=False)

    assert (state, tasks["deploy"], tasks["roll_back"]) == ("success", "success", "success"), tasks
    assert {tasks[f"canary_{stage}.shift"] for stage in (10, 50, 100)} == {"skipped"}
    after = state_of(asked.production)
    assert (after.stable, after.canary, after.promotions) == (before.stable, None, before.promotions)
    assert asked.served() == {str(before.stable.version if before.stable else None)}
    told = [event["what"] for event in asked.events(run)]
    assert "deployed" in told
    assert "shifted" not in told


@pytest.mark.timeout(DEADLINE_S)
def test_a_person_takes_a_held_canary_back_in_airflow_and_the_ledger_has_who_and_why(asked: Asked) -> None:
    before = state_of(asked.production)
    checkpoint = asked.checkpoint(show_backfill.past_slots(before, 3)[1])
    conf = {"checkpoint": checkpoint, "benchmark": False, "min_bake_s": 0, "max_bake_s": 1}
    Supervisor(asked.production.home).stop_programs(["traffic"], 20)  # so that the looks leave it open
    run = asked.rest.trigger(DIGITS.release_dag, conf)

    shown = asked.question(run, 10)
    asked.answer(run, "canary_10.watch", "Roll back", why="a fair is on", extend_seconds=60)
    state, tasks = asked.ended(run)
    asked.production.must("up")

    assert "10 %" in shown["subject"]
    assert shown["options"] == ["Advance", "Roll back", "Extend"]
    assert (state, tasks["canary_10.watch"], tasks["roll_back"]) == ("failed", "success", "success"), tasks
    [decided] = [event for event in asked.events(run) if event["what"] == "decided"]
    assert (decided["verb"], decided["reason"]) == ("roll_back", "a fair is on")
    assert decided["by"] not in ("", "somebody")
    assert state_of(asked.production).stable == before.stable


@pytest.mark.timeout(DEADLINE_S)
def test_of_a_backfill_over_two_dates_the_scheduler_lets_only_the_newest_touch_anything(asked: Asked) -> None:
    """Neither date has a checkpoint: the older ends skipped without a look at it, the newest fails for want of it."""
    before = state_of(asked.production).stable
    older, newest = show_backfill.past_slots(state_of(asked.production), 5)[:2]
    order = {"conf": {"reason": "the test"}, "since": older}
    show_backfill.backfill(asked.rest, newest, **order)

    with pytest.raises(SandboxError, match="409"):
        asked.rest.call("POST", "/backfills", show_backfill.order(newest, **order))
    with pytest.raises(SandboxError, match=r"400 .*restore_version"):
        asked.rest.trigger(DIGITS.release_dag, {"restore_version": "20261301000000", "reason": "no such month"})
    runs = {date: show_backfill.run_of(asked.rest, date) for date in (older, newest)}
    ended = {date: asked.ended(run) for date, run in runs.items()}

    assert {date: state for date, (state, _) in ended.items()} == {older: "success", newest: "failed"}
    assert set(ended[older][1].values()) == {"skipped"}
    tasks = ended[newest][1]
    assert (tasks["plan"], tasks["export"], tasks["deploy"]) == ("success", "failed", "upstream_failed")
    assert state_of(asked.production).stable == before


@pytest.mark.timeout(2 * DEADLINE_S)
def test_a_date_is_built_by_a_backfill_in_an_emergency_and_put_back_by_another(asked: Asked) -> None:
    """While it is built the config is edited: it ends by the stages that it began with."""
    before = state_of(asked.production)
    date = show_backfill.past_slots(before, 3)[2]
    asked.checkpoint(date)
    version, reason = version_of(date), {"reason": "stable is bad"}
    assert before.stable

    show_backfill.backfill(asked.rest, date, {"emergency": True, "benchmark": False, **reason})
    run = show_backfill.run_of(asked.rest, date)
    await_true(lambda: asked.rest.task_states(DIGITS.release_dag, run).get("plan") == "success", "it is planned", 120)
    asked.edit(stages=[50, 100], approval="before_full")
    built, tasks = asked.ended(run)
    assert (built, tasks["canary_10.decide"], tasks["promote"]) == ("success", "success", "success"), tasks
    assert "approve" not in tasks
    assert [event["stage"] for event in asked.events(run) if event["what"] == "shifted"] == [10, 50, 100]
    assert asked.served() == {str(version)}
    planned = [event for event in Events(asked.store, DIGITS.model).read() if event["what"] == "planned"]
    assert (planned[-1]["version"], planned[-1]["mode"]) == (version, "emergency")

    _, restored, tasks = asked.run(restore_version=str(before.stable.version), **reason)
    assert (restored, tasks["export"], tasks["canary_100.shift"]) == ("success", "skipped", "success"), tasks
    assert asked.served() == {str(before.stable.version)}

    again, tasks = asked.backfilled(date, **reason)
    assert (again, tasks["export"], tasks["canary_50.shift"]) == ("success", "skipped", "skipped"), tasks
    assert asked.served() == {str(version)}
    assert [promotion.version for promotion in state_of(asked.production).promotions][-3:] == [
        version,
        before.stable.version,
        version,
    ]


@pytest.mark.timeout(DEADLINE_S)
def test_a_release_gets_all_of_the_traffic_once_a_person_says_yes_in_airflow(asked: Asked) -> None:
    before = state_of(asked.production)
    asked.edit(stages=[50, 100], approval="before_full")
    checkpoint = asked.checkpoint(show_backfill.past_slots(before, 3)[0])

    run = asked.rest.trigger(DIGITS.release_dag, {"checkpoint": checkpoint, "benchmark": False, "min_bake_s": 0})
    shown = asked.question(run, 50)
    asked.answer(run, "approve", "Approve", why="the numbers are fine")
    state, tasks = asked.ended(run)

    assert shown["options"] == ["Approve", "Reject"]
    assert "get all of the traffic" in shown["subject"]
    assert (state, tasks["canary_50.decide"], tasks["approve"], tasks["promote"]) == ("success",) * 4, tasks
    told = [
        event for event in asked.events(run) if event["what"] in ("shifted", "approval asked", "decided", "promoted")
    ]
    assert [event.get("stage", event["what"]) for event in told] == [50, "approval asked", "decided", 100, "promoted"]
    assert (told[2]["verb"], told[2]["reason"]) == ("advance", "the numbers are fine")
    assert before.stable != state_of(asked.production).stable


@pytest.mark.timeout(DEADLINE_S)
def test_what_was_released_is_served_after_a_restart(production: Sandbox, asked: Asked) -> None:
    before = state_of(production)
    production.must("down")
    production.must("up", "--without", "airflow")

    assert before.stable is not None
    assert set(served_versions(production.environment, DIGITS.model)) == {str(before.stable.version)}

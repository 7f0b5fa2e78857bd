"""The demo as a person runs it: a model goes live by Airflow, a retrained one takes over, a broken one goes back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from sandbox import airflow, show_backfill
from sandbox.airflow_rest import AirflowRest
from sandbox.demo import DIGITS
from sandbox.demo_summary import served_versions
from sandbox.errors import SandboxError
from sandbox.home import Home
from sandbox.settings import ROOT
from tests.sandbox.conftest import Sandbox, free_base

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


def state_of(sandbox: Sandbox) -> State:
    return StateFile(ObjectStore(sandbox.environment.s3), DIGITS.model).read()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """All of production from nothing, Airflow and clients included."""
    started = Sandbox(Home(tmp_path_factory.mktemp("production")), free_base())
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
    before = state_of(production)
    done = demo(production, "--broken")
    assert done.returncode == 0, released.stdout + done.stdout + done.stderr
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


@pytest.mark.timeout(DEADLINE_S)
def test_of_a_backfill_over_two_dates_the_scheduler_lets_only_the_newest_touch_anything(
    production: Sandbox, rolled_back: tuple[State, str]
) -> None:
    """Neither date has a checkpoint: the older ends skipped without a look at it, the newest fails for want of it."""
    before, rest = state_of(production).stable, AirflowRest(airflow.url(production.settings))
    older, newest = show_backfill.past_slots(state_of(production), 2)
    asked = {"conf": {"reason": "the test"}, "since": older}
    show_backfill.backfill(rest, newest, **asked)

    with pytest.raises(SandboxError, match="409"):
        rest.call("POST", "/backfills", show_backfill.order(newest, **asked))
    with pytest.raises(SandboxError, match=r"400 .*restore_version"):
        rest.trigger(DIGITS.release_dag, {"restore_version": "20261301000000", "reason": "no such month"})
    runs = {date: show_backfill.run_of(rest, date) for date in (older, newest)}
    ended = {date: rest.follow(DIGITS.release_dag, run, lambda _: None) for date, run in runs.items()}

    assert ended == {older: "success", newest: "failed"}
    assert set(rest.task_states(DIGITS.release_dag, runs[older]).values()) == {"skipped"}
    states = rest.task_states(DIGITS.release_dag, runs[newest])
    assert (states["plan"], states["export"], states["deploy"]) == ("success", "failed", "upstream_failed")
    assert state_of(production).stable == before


@pytest.mark.timeout(DEADLINE_S)
def test_what_was_released_is_served_after_a_restart(production: Sandbox, rolled_back: tuple[State, str]) -> None:
    before, _ = rolled_back
    production.must("down")
    production.must("up", "--without", "airflow")

    assert before.stable is not None
    assert set(served_versions(production.environment, DIGITS.model)) == {str(before.stable.version)}

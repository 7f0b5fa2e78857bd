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
from sandbox.demo import DIGITS
from sandbox.demo_summary import served_versions
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
def test_what_was_released_is_served_after_a_restart(production: Sandbox, rolled_back: tuple[State, str]) -> None:
    before, _ = rolled_back
    production.must("down")
    production.must("up", "--without", "airflow")

    assert before.stable is not None
    assert set(served_versions(production.environment, DIGITS.model)) == {str(before.stable.version)}

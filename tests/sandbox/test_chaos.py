"""A small case of each part of `make show-chaos`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.sandbox.chaos.faults import FaultyS3
from tests.sandbox.chaos.story import Chaos, Tally
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, quick_spec, remove
from tests.sandbox.shelf import Shelf


@pytest.fixture(scope="module")
def chaos(trained: Sandbox, shelf: Shelf) -> Iterator[Chaos]:
    """SECOND is stable, FIRST is standby."""
    model = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), trained.environment)
    shelf.seal(model, [FIRST, SECOND])
    with Clients(model):
        model.release(model.build(FIRST))
        model.release(model.build(SECOND))
    yield Chaos(model)
    remove(model)


@pytest.mark.parametrize(("at", "cold"), [(3, False), (14, True)])
def test_a_killed_step_is_finished_by_its_retry(chaos: Chaos, at: int, cold: bool) -> None:
    tally = Tally("")
    chaos.killed_and_retried(at, tally, cold=cold)
    assert tally.violations == []
    assert tally.points > 0


def test_a_killed_build_is_finished_by_its_retries(chaos: Chaos) -> None:
    tally = Tally("")
    chaos.build_killed_and_retried(3, tally)
    assert tally.violations == []
    assert tally.points > 1


@pytest.mark.parametrize(("step", "at"), [("deploy", 5), ("promote", 4)])
def test_a_killed_release_is_ended_by_the_guard(chaos: Chaos, step: str, at: int) -> None:
    tally = Tally("")
    assert chaos.killed_and_left(step, at, tally)
    assert tally.violations == []


def test_a_killed_guard_is_followed_by_another(chaos: Chaos) -> None:
    tally = Tally("")
    assert chaos.guard_killed(7, tally)
    assert tally.violations == []


@pytest.mark.parametrize("at", [4, 8])
def test_a_fault_of_s3_is_got_over(chaos: Chaos, at: int) -> None:
    wire, tally = FaultyS3(chaos.environment.s3.endpoint_url or ""), Tally("")
    try:
        chaos.faulty(wire, at, tally, cold=at == 4)
    finally:
        wire.close()
    assert tally.violations == []
    assert tally.points > 0

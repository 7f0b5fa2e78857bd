"""Releases of two models on one pair of fleets, at the same time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from model_release.steps import guard, story
from model_release.steps.story import Told
from model_release.traffic import connect
from tests.sandbox.chaos.killing import Attempt, attempt
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model, quick_spec, remove
from tests.sandbox.shelf import Shelf

#: Each of the two builds, and waits for its turn on bench.
WHOLE_RELEASE_S = 400


@pytest.fixture
def two(trained: Sandbox, shelf: Shelf) -> Iterator[list[Model]]:
    made = [Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), trained.environment) for _ in range(2)]
    for model in made:
        shelf.seal(model, [FIRST])
    yield made
    for model in made:
        remove(model)


def unheard(_: Told) -> None:
    """Tell nobody."""


def released(model: Model, version: int) -> Attempt:
    """Release in a process of its own, as two releases at once always are: torch exports one model at a time."""
    work = partial(story.run, model.build(version), model.environment, model.spec, unheard)
    return attempt(work, within_s=WHOLE_RELEASE_S)


def test_two_models_are_released_at_once_and_the_one_that_goes_back_does_not_touch_the_other(two: list[Model]) -> None:
    good, bad = two
    with Clients(good) as of_good, Clients(bad), ThreadPoolExecutor(2) as pool:
        assert [each.error for each in pool.map(released, two, [FIRST, FIRST])] == [None, None]
        before = of_good.failed()  # before its first version serves, each answer is a 503
        well, ill = pool.map(released, two, [SECOND, BROKEN])
        assert well.error is None, well.sentence
        assert ill.error == "RolledBack", ill.sentence
        assert of_good.failed() == before, of_good.problems[-3:]
    for model, stable in ((good, SECOND), (bad, FIRST)):
        placed, route = model.state.stable, connect(model.environment).read(model.name)
        assert placed is not None
        assert route is not None
        assert placed.version == stable
        assert route.weights[placed.fleet] == 100
    assert guard.run(good.environment, [model.name for model in two]) == guard.Round()

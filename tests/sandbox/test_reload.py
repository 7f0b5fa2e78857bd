"""A small case of `make show-reload`."""

from __future__ import annotations

import pytest

from tests.sandbox.releasing import FIRST, SECOND, Clients, Model
from tests.sandbox.reload.measure import moves, reloads
from tests.sandbox.reload.page import failures, page


@pytest.mark.usefixtures("sealed")
def test_versions_come_and_go_under_load_without_a_client_error(model: Model) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    reloaded = reloads(model, rounds=1)
    moved = moves(model, swaps=1)
    assert (moved.errors, moved.problems) == (0, [])
    assert moved.requests > 100
    assert [what for what, _ in moved.done][-1] == "a canary with all of the traffic rolled back"
    assert model.state.stable
    assert model.state.stable.version == FIRST != SECOND
    text = page(reloaded, moved)
    assert f"every replica of the fleet ({reloaded.replicas})" in text
    assert "0 of them failed" in text
    assert not [miss for miss in failures(reloaded, moved) if "errors" in miss]

"""A small case of `make show-fleet`: the way to be bad that costs a server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.sandbox import ensemble_parts
from tests.sandbox.bad_versions.page import page
from tests.sandbox.bad_versions.scenes import SCENES, played
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import FIRST, QUICK_ENSEMBLE, SECOND, Clients, Model, remove


@pytest.mark.usefixtures("sealed")
def test_a_version_that_ends_its_servers_costs_the_other_models_clients_nothing(
    model: Model, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.syspath_prepend(str(include))
    [scene] = (each for each in SCENES if "ends its server" in each.what)
    bad = Model(ensemble_parts.spec(f"bad_{uuid.uuid4().hex[:8]}", **QUICK_ENSEMBLE), model.environment)
    with Clients(model):
        model.release(model.build(FIRST))
        model.release(model.build(SECOND))
    try:
        with Clients(bad, ensemble_parts.bodies(), rate_per_s=25):
            bad.release(ensemble_parts.build(bad, FIRST, include, 1))
        seen = played(scene, 1, bad, model, sandbox, include)
    finally:
        remove(bad)
    assert seen.problems == [], seen
    assert seen.restarted
    assert f"| {scene.what} |" in page([seen])

"""A version that breaks its clients is no canary; under a raised contract it is served beside the old."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.errors import AlreadyStable, ContractBroken, VersionNotFound
from model_release.repository.store import ObjectStore
from model_release.spec_files import load_spec
from model_release.steps import benchmark, deploy, export, plan, publish, shift, validate
from model_release.traffic import connect
from tests.sandbox.releasing import CHECKPOINTS, FIRST, SECOND, Clients, Model, environment_file, remove

Command = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path, model: Model) -> Path:
    """The model's config, of its first contract."""
    path = tmp_path / "configs" / f"{model.name}.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(model.spec.model_dump(mode="json")))
    return path


@pytest.fixture
def command(tmp_path: Path, config: Path, model: Model) -> Command:
    """Call the command line, and return what it says to programs."""
    environment = environment_file(tmp_path / "environment.yaml", model.environment)

    def run(*asked: str) -> Any:
        options = ["--json", "--configs", str(config.parent), "--environment", str(environment)]
        done = CliRunner().invoke(app, [*options, *asked])
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout)

    return run


def renamed_output(spec: Any) -> dict[str, Any]:
    """What the config says when the model's one output is called otherwise, which breaks every client."""
    text = json.dumps(spec.model_dump(mode="json")).replace('"logits"', '"scores"')
    assert "scores" in text
    return dict(json.loads(text))


@pytest.mark.usefixtures("sealed")
def test_a_breaking_change_is_refused_and_served_beside_the_old_under_a_raised_contract(
    model: Model, config: Path, command: Command
) -> None:
    with Clients(model):
        command("release", model.name, "--version", str(FIRST), "--checkpoint", CHECKPOINTS[FIRST])
    second = ("release", model.name, "--version", str(SECOND), "--checkpoint", CHECKPOINTS[SECOND])

    broken = renamed_output(model.spec)
    config.write_text(yaml.safe_dump(broken))
    with pytest.raises(ContractBroken, match=r"output 'logits' is gone.*raise contract in the model config to 2"):
        command(*second)
    assert model.state.claim is None

    config.write_text(yaml.safe_dump({**broken, "contract": 2}))
    beside = Model(load_spec(config).model_copy(update={"name": f"{model.name}_v2"}), model.environment)
    try:
        with Clients(model) as clients, Clients(beside) as others:
            assert command(*second)["result"] == {"model": beside.name, "stable": SECOND, "green": True}
        assert clients.failed() == 0, clients.problems[:3]
        assert set(clients.by_version()) == {str(FIRST)}, "the old contract's clients are served as before"
        assert set(others.by_version()) == {str(SECOND)}
        told = {each["model"]: each["stable"]["version"] for each in command("status", model.name)}
        assert told == {model.name: FIRST, beside.name: SECOND}
        assert {event["version"] for event in command("history", model.name)} == {SECOND}
        assert FIRST in {event["version"] for event in command("history", model.name, "--contract", "1")}
    finally:
        remove(beside)


@pytest.mark.usefixtures("sealed")
def test_an_earlier_contract_still_goes_back(model: Model, config: Path, command: Command) -> None:
    for version in (FIRST, SECOND):
        with Clients(model):
            model.release(model.build(version))
    config.write_text(yaml.safe_dump({**renamed_output(model.spec), "contract": 2}))

    with Clients(model):
        done = command("rollback", model.name, "--contract", "1", "--reason", "its clients are not gone yet")
    assert done["result"]["stable"] == FIRST


@pytest.mark.usefixtures("sealed")
def test_a_restore_that_cannot_be_stops_no_release(model: Model) -> None:
    """Such as one with a wrong digit."""
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    plan.run(second, model.environment, model.spec)
    for step in (export, validate, publish, benchmark, deploy):
        step.run(second, model.environment)
    shift.run(second, model.environment, 10)
    before = ObjectStore(model.environment.s3).get(f"ledger/{model.name}/state.json")

    for version, error, words in (
        (FIRST + 1, VersionNotFound, str(FIRST)),
        (FIRST, AlreadyStable, f"To end its live canary {SECOND}"),
    ):
        with pytest.raises(error, match=words):
            model.release(replace(model.restore(version), reason="a wrong digit"))
    assert ObjectStore(model.environment.s3).get(f"ledger/{model.name}/state.json") == before
    route = connect(model.environment).read(model.name)
    assert route is not None
    assert dict(route.weights) == {"blue": 90, "green": 10}

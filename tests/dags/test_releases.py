"""Airflow's run and Connection, as the library's Release and Environment."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_steps import ENVIRONMENT

from model_release.errors import BadModelConfig, CheckpointMissing
from model_release.identity import Kind
from model_release.spec import ModelSpec
from model_release.spec_files import load_spec

CONFIGS = Path(__file__).with_name("model_configs")
AFTER = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def context(*, extras: tuple[dict[str, Any], ...] = (), **changes: Any) -> Any:
    run = {"run_id": "r", "logical_date": None, "run_after": AFTER, "clear_number": 2, "triggering_user_name": None}
    params = {"checkpoint": None, "restore_version": None, "reason": ""}
    moments = [
        SimpleNamespace(extra=extra, timestamp=AFTER.replace(second=second)) for second, extra in enumerate(extras)
    ]
    return {
        "dag_run": SimpleNamespace(**{**run, "run_type": "asset_triggered", **changes.pop("run", {})}),
        "params": {**params, **changes},
        "ti": SimpleNamespace(xcom_pull=lambda **_: changes.pop("planned", None)),
        "triggering_asset_events": {"asset": moments} if moments else {},
    }


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(CONFIGS / "echo.yaml")


def test_the_version_is_the_logical_date_else_the_moment_of_the_run(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    dated = context(run={"logical_date": datetime(2026, 1, 2, tzinfo=UTC)})

    assert release_of(dated, spec).version == 20260102000000
    assert release_of(context(), spec).version == 20260504030201


def test_a_contract_that_is_raised_while_a_run_goes_on_changes_nothing_of_it(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    raised = spec.model_copy(update={"contract": 2})

    assert release_of(context(), raised).model == "echo_v2"
    assert release_of(context(planned={"model": "echo"}), raised).model == "echo"


def test_who_and_which_try_are_the_runs(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    release = release_of(context(run={"triggering_user_name": "ada"}), spec)

    assert (release.holder, release.by, release.kind) == ("r#2", "ada", Kind.BUILD)
    assert release_of(context(), spec).by == "asset_triggered"


def test_the_newest_asset_event_names_the_checkpoint_unless_the_form_does(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    extras = ({"checkpoint": "s3://a/old"}, {"checkpoint": "s3://a/new"})

    assert release_of(context(extras=extras), spec).checkpoint == "s3://a/new"
    assert release_of(context(extras=extras, checkpoint="s3://a/form"), spec).checkpoint == "s3://a/form"
    assert release_of(context(), spec).checkpoint is None


def test_the_form_or_the_asset_event_pins_a_checkpoint_that_is_code(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of
    from model_release_airflow.schedules import params_of

    code = {"format": "torchscript", "allow_code": True, "sha256": "{{ asset.extra.sha256 }}", "factory": None}
    each = spec.model_copy(update={"source": spec.source.model_copy(update=code)})
    said = context(extras=({"sha256": "ab" * 32},))

    assert release_of(said, each).sha256 == "ab" * 32
    assert release_of({**said, "params": {**said["params"], "sha256": "cd" * 32}}, each).sha256 == "cd" * 32
    assert release_of(context(), each).sha256 is None
    assert release_of(said, spec).sha256 is None
    assert "sha256" in params_of(each)
    assert "sha256" not in params_of(spec)


def test_a_template_may_name_the_assets_extra(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    source = spec.source.model_copy(update={"checkpoint": "s3://a/{{ asset.extra.run }}/{{ date }}"})
    templated = spec.model_copy(update={"source": source})

    assert release_of(context(extras=({"run": 7},)), templated).checkpoint == "s3://a/7/2026-05-04"
    with pytest.raises(CheckpointMissing, match=r"no asset event of this run says asset\.extra\.run"):
        release_of(context(), templated)


def connection(extra: dict[str, Any]) -> Any:
    from airflow.sdk import Connection

    return Connection(conn_id="model_release", conn_type="generic", extra=json.dumps(extra))


def test_the_connection_holds_the_environment_or_names_its_file(tmp_path: Path) -> None:
    from model_release_airflow.connection import environment_of

    file = tmp_path / "environment.yaml"
    file.write_text(json.dumps(ENVIRONMENT))

    assert environment_of(connection(ENVIRONMENT)) == environment_of(connection({"environment_file": str(file)}))


def test_an_empty_connection_takes_the_workers_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_release_airflow.connection import environment_of

    file = tmp_path / "environment.yaml"
    file.write_text(json.dumps(ENVIRONMENT))
    monkeypatch.setenv("MODEL_RELEASE_ENVIRONMENT", str(file))

    assert environment_of(connection({})).s3.bucket == "models"


def test_a_connection_that_does_not_hold_says_what_is_wrong() -> None:
    from model_release_airflow.connection import environment_of

    with pytest.raises(BadModelConfig, match="the Connection 'model_release' is not valid: unknown key 's33'"):
        environment_of(connection({**ENVIRONMENT, "s33": {}}))
    with pytest.raises(BadModelConfig, match="give one or the other"):
        environment_of(connection({**ENVIRONMENT, "environment_file": "/x"}))


def test_a_trigger_survives_the_way_to_another_process() -> None:
    import importlib

    from model_release_airflow.triggers import LookTrigger

    trigger = LookTrigger(release={"model": "echo"}, stage=10, interval_s=0.5)
    path, arguments = json.loads(json.dumps(trigger.serialize()))
    module, name = path.rsplit(".", 1)

    assert getattr(importlib.import_module(module), name)(**arguments).serialize() == trigger.serialize()

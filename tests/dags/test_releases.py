"""Airflow's run and Connection, as the library's Release and Environment."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_steps import ENVIRONMENT

from model_release.errors import AskedWrongly, BadModelConfig, CheckpointMissing
from model_release.identity import Kind, Mode, Release
from model_release.spec import ModelSpec
from model_release.spec_files import load_spec

CONFIGS = Path(__file__).with_name("model_configs")
AFTER = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def context(*, extras: tuple[dict[str, Any], ...] = (), **changes: Any) -> Any:
    run = {"run_id": "r", "logical_date": None, "run_after": AFTER, "clear_number": 2, "triggering_user_name": None}
    moments = [
        SimpleNamespace(extra=extra, timestamp=AFTER.replace(second=second)) for second, extra in enumerate(extras)
    ]
    run = {**run, "run_type": "asset_triggered", "conf": None, **changes.pop("run", {})}
    planned = changes.pop("planned", None)
    from model_release_airflow.schedules import defaults

    return {
        "dag_run": SimpleNamespace(**run),
        "params": {**defaults(load_spec(CONFIGS / "echo.yaml")), **changes},
        "ti": SimpleNamespace(xcom_pull=lambda **_: planned),
        "triggering_asset_events": {"asset": moments} if moments else {},
    }


def asked(told: Any, spec: ModelSpec, sealed: tuple[int, ...] = ()) -> Release:
    """What plan would ask for, with these versions sealed."""
    from model_release_airflow.releases import asked_of

    return asked_of(told, spec, lambda _, version: Kind.RESTORE if version in sealed else Kind.BUILD)


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(CONFIGS / "echo.yaml")


def test_the_version_is_the_logical_date_else_the_moment_of_the_run(spec: ModelSpec) -> None:
    dated = context(run={"logical_date": datetime(2026, 1, 2, tzinfo=UTC)})

    assert asked(dated, spec).version == 20260102000000
    assert asked(context(), spec).version == 20260504030201


def test_a_contract_that_is_raised_while_a_run_goes_on_changes_nothing_of_it(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    raised = spec.model_copy(update={"contract": 2})
    before = asked(context(), spec)

    assert asked(context(), raised).model == "echo_v2"
    assert release_of(context(planned={"release": before.to_dict()})).model == "echo"


def test_who_and_which_try_are_the_runs(spec: ModelSpec) -> None:
    release = asked(context(run={"triggering_user_name": "ada"}), spec)

    assert (release.holder, release.by, release.kind) == ("r#2", "ada", Kind.BUILD)
    assert asked(context(), spec).by == "asset_triggered"


def test_a_task_that_is_cleared_by_itself_goes_on_with_the_try_that_plan_began(spec: ModelSpec) -> None:
    from model_release_airflow.releases import release_of

    planned = {"release": asked(context(run={"clear_number": 0}), spec).to_dict()}

    assert release_of(context(planned=planned, run={"clear_number": 1})).holder == "r#0"


def test_no_task_goes_on_when_plan_was_set_to_success_by_hand() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from model_release_airflow.releases import release_of

    with pytest.raises(AirflowFailException, match="plan has not run: its state was set by hand"):
        release_of(context())


def test_the_newest_asset_event_names_the_checkpoint_unless_the_form_does(spec: ModelSpec) -> None:
    extras = ({"checkpoint": "s3://a/old"}, {"checkpoint": "s3://a/new"})

    assert asked(context(extras=extras), spec).checkpoint == "s3://a/new"
    assert asked(context(extras=extras, checkpoint="s3://a/form"), spec).checkpoint == "s3://a/form"
    assert asked(context(), spec).checkpoint is None


def test_the_form_or_the_asset_event_pins_a_checkpoint_that_is_code(spec: ModelSpec) -> None:
    from model_release_airflow.schedules import params_of

    code = {"format": "torchscript", "allow_code": True, "sha256": "{{ asset.extra.sha256 }}", "factory": None}
    each = spec.model_copy(update={"source": spec.source.model_copy(update=code)})
    said = context(extras=({"sha256": "ab" * 32},))

    assert asked(said, each).sha256 == "ab" * 32
    assert asked({**said, "params": {**said["params"], "sha256": "cd" * 32}}, each).sha256 == "cd" * 32
    assert asked(context(), each).sha256 is None
    assert asked(said, spec).sha256 is None
    assert "sha256" in params_of(each)
    assert "sha256" not in params_of(spec)


def test_a_template_may_name_the_assets_extra(spec: ModelSpec) -> None:
    source = spec.source.model_copy(update={"checkpoint": "s3://a/{{ asset.extra.run }}/{{ date }}"})
    templated = spec.model_copy(update={"source": source})

    assert asked(context(extras=({"run": 7},)), templated).checkpoint == "s3://a/7/2026-05-04"
    with pytest.raises(CheckpointMissing, match=r"no asset event of this run says asset\.extra\.run"):
        asked(context(), templated)


def test_what_the_form_asks_for_is_the_releases(spec: ModelSpec) -> None:
    release = asked(context(emergency=True, reason="wrong labels", min_bake_s=30, benchmark=False), spec)

    assert (release.mode, release.reason) == (Mode.EMERGENCY, "wrong labels")
    assert (release.min_bake_s, release.max_bake_s, release.benchmark) == (30, None, False)
    assert asked(context(dry_run=True), spec).mode is Mode.DRY_RUN


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"restore_version": 20260101000000}, "a restore of version 20260101000000 needs a reason"),
        ({"restore_version": "20260101000000", "reason": "  "}, "a restore of version 20260101000000 needs a reason"),
        ({"emergency": True}, "an emergency needs a reason"),
        ({"emergency": True, "dry_run": True, "reason": "now"}, "choose one"),
        ({"restore_version": 20260230000000, "reason": "r"}, "20260230000000 is no version"),
        ({"restore_version": 20260101000000, "reason": "r", "checkpoint": "s3://a/b"}, "as it is sealed, not s3://a/b"),
        ({"min_bake_s": 1000}, "min_bake_s 1000.0 must be below max_bake_s 900.0"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(spec: ModelSpec, form: Any, why: str) -> None:
    with pytest.raises(AskedWrongly, match=re.escape(why)):
        asked(context(**form), spec)


@pytest.mark.parametrize(
    ("run", "old"),
    [
        ({"clear_number": 0, "run_after": datetime.now(UTC)}, False),
        ({"clear_number": 1, "run_after": datetime.now(UTC)}, True),
        ({"clear_number": 0, "run_after": datetime.now(UTC) - timedelta(days=3)}, True),
    ],
    ids=["just-asked", "cleared", "waited-in-a-paused-dag"],
)
def test_a_restore_that_was_cleared_or_had_to_wait_says_since_when_it_was_asked(
    spec: ModelSpec, run: dict[str, Any], old: bool
) -> None:
    release = asked(context(run=run, restore_version=20260101000000, reason="r"), spec)

    assert release.asked_at == (run["run_after"].isoformat() if old else None)


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

"""What Airflow sees when it parses the project: which DAGs, in which shape, with what loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripted_steps import PROJECT

CONFIGS = Path(__file__).with_name("model_configs")
OF_NO_MODEL = {
    "canary_guard",
    *(
        f"retrain_{name}"
        for name in ("digits_classifier", "embedding_model", "embedding_model_torchscript", "text_classifier")
    ),
}


@pytest.fixture(scope="module")
def bag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag()


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of model configs that the DAGs are read from."""
    folder = tmp_path / "configs"
    shutil.copytree(CONFIGS, folder)
    monkeypatch.setenv("MODEL_RELEASE_CONFIGS", str(folder))
    return folder


def parse() -> tuple[set[str], dict[str, str]]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag()
    return set(bag.dags), {Path(path).name: text for path, text in bag.import_errors.items()}


def test_every_dag_file_imports(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {"release_echo", *OF_NO_MODEL}


def test_the_projects_own_configs_make_dags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_RELEASE_CONFIGS")

    dags, errors = parse()

    names = {path.stem for path in (PROJECT / "include" / "model_configs").glob("*.yaml")}
    assert errors == {}
    assert {f"release_{name}" for name in names} <= dags


def test_a_bundle_of_another_commit_has_the_stages_of_its_own_configs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.delenv("MODEL_RELEASE_CONFIGS")
    (tmp_path / "include" / "model_configs").mkdir(parents=True)
    text = (Path(__file__).with_name("model_configs") / "echo.yaml").read_text()
    (tmp_path / "include" / "model_configs" / "echo.yaml").write_text(text.replace("[10, 50, 100]", "[25, 100]"))
    shutil.copytree(PROJECT / "dags", tmp_path / "dags")

    bag = DagBag(tmp_path / "dags")

    assert bag.import_errors == {}
    assert {name for name in bag.dags if name.startswith("release_")} == {"release_echo"}
    groups = {task.task_group.group_id for task in bag.dags["release_echo"].tasks}
    assert groups == {None, "canary_25", "canary_100"}


def test_a_task_that_starts_parses_the_dag_of_its_own_model_alone(configs: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    (configs / "other.yaml").write_text((configs / "echo.yaml").read_text().replace("name: echo", "name: other"))

    def parsed(dag_id: str | None) -> set[str]:
        with _airflow_parsing_context_manager(dag_id=dag_id, task_id="plan" if dag_id else None):
            return set(DagBag(PROJECT / "dags" / "model_release.py").dags)

    assert parsed(None) == {"release_echo", "release_other"}
    assert parsed("release_other") == {"release_other"}
    assert parsed("release_unknown") == {"release_echo", "release_other"}, "Airflow says that it has no such DAG"


def test_a_bad_config_leaves_the_other_models_standing(configs: Path) -> None:
    (configs / "first_bad.yaml").write_text("name: first_bad\nsources: {}\n")
    (configs / "second_bad.yaml").write_text("name: another\n")

    dags, errors = parse()

    assert dags == {"release_echo", *OF_NO_MODEL}
    assert list(errors) == ["check_model_configs.py"]
    assert "first_bad.yaml, second_bad.yaml" in errors["check_model_configs.py"]
    assert "unknown key 'sources'. Did you mean 'source'?" in errors["check_model_configs.py"]


def test_one_bad_config_is_named_with_what_to_do(configs: Path) -> None:
    text = (configs / "echo.yaml").read_text()
    (configs / "other.yaml").write_text(text.replace("name: echo", "name: other") + "canry: {}\n")

    _, errors = parse()

    assert "other.yaml is not valid: unknown key 'canry'. Did you mean 'canary'?" in errors["check_model_configs.py"]
    assert "model-release check" in errors["check_model_configs.py"]


def test_the_release_has_exactly_this_graph(bag: Any) -> None:
    dag = bag.dags["release_echo"]

    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == {
        "plan": {"build_or_restore"},
        "build_or_restore": {"export", "benchmark", "deploy"},
        "export": {"validate"},
        "validate": {"publish"},
        "publish": {"benchmark"},
        "benchmark": {"deploy"},
        "deploy": {"first_stage"},
        "first_stage": {"canary_10.shift", "canary_50.shift", "canary_100.shift", "roll_back"},
        "canary_10.shift": {"canary_10.watch"},
        "canary_10.watch": {"canary_10.decide"},
        "canary_10.decide": {"canary_50.shift", "canary_100.shift", "roll_back"},
        "canary_50.shift": {"canary_50.watch"},
        "canary_50.watch": {"canary_50.decide"},
        "canary_50.decide": {"canary_100.shift", "roll_back"},
        "canary_100.shift": {"canary_100.watch"},
        "canary_100.watch": {"canary_100.decide"},
        "canary_100.decide": {"promote", "roll_back"},
        "promote": {"roll_back", "finish"},
        "roll_back": {"finish"},
        "finish": set(),
    }


def test_a_shadow_comes_before_the_first_weight(configs: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    path = configs / "echo.yaml"
    path.write_text(path.read_text().replace("canary: {", "canary: {shadow: {percent: 20, seconds: 30}, "))

    downstream = {task.task_id: set(task.downstream_task_ids) for task in DagBag().dags["release_echo"].tasks}

    assert "shadow.shift" in downstream["first_stage"]
    assert downstream["shadow.decide"] == {"canary_10.shift", "canary_50.shift", "canary_100.shift", "roll_back"}


def test_only_steps_that_touch_nothing_are_tried_again(bag: Any) -> None:
    dag = bag.dags["release_echo"]

    assert {task.task_id for task in dag.tasks if task.retries} == {"export", "validate", "publish"}
    assert [task.task_id for task in dag.tasks if task.execution_timeout is None] == []


def test_a_restore_does_not_queue_and_one_benchmark_of_all_models_runs(bag: Any) -> None:
    dag = bag.dags["release_echo"]

    assert dag.max_active_runs > 1, "a restore would wait for the release that it preempts"
    assert not dag.catchup
    assert {task.task_id: task.pool for task in dag.tasks if task.pool != "default_pool"} == {
        "benchmark": "model_release_bench"
    }


@pytest.mark.parametrize(
    ("schedule", "assets", "expected"),
    [
        ('"0 3 * * *"', "[]", "CronTriggerTimetable"),
        ("null", '["s3://training/echo"]', "AssetAny"),
        ('"0 3 * * *"', '["s3://training/echo"]', "AssetOrTimeSchedule"),
        ("null", "[]", "NoneType"),
    ],
)
def test_the_schedule_is_the_configs(schedule: str, assets: str, expected: str) -> None:
    from model_release.spec import ModelSpec
    from model_release.spec_files import parse_section
    from model_release_airflow.schedules import schedule_of

    text = (CONFIGS / "echo.yaml").read_text()
    text = text.replace('schedule: "0 3 * * *"', f"schedule: {schedule}")
    spec = parse_section(ModelSpec, text.replace('["s3://training/echo"]', assets), "echo.yaml")

    assert type(schedule_of(spec)).__name__ == expected


def test_a_dag_that_is_unpaused_for_the_first_time_releases_nothing_at_once() -> None:
    """The line's last instant was this minute, well within the tenth of a day that Airflow would run it after."""
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable
    from airflow.timetables.base import TimeRestriction

    from model_release_airflow.schedules import cron_of

    asked_at = datetime.now(UTC)
    timetable = decode_timetable(encode_timetable(cron_of(f"{asked_at.minute} {asked_at.hour} * * *")))
    first = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )

    assert first is not None
    assert first.run_after > asked_at


def test_parsing_loads_nothing_heavy_and_none_of_the_steps() -> None:
    # boto3 is not in the list: Airflow's amazon provider imports it for any Asset of s3://.
    program = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
assert bag.dags and not bag.import_errors, bag.import_errors
ours = ("model_release.steps", "model_release.repository", "model_release.traffic", "model_release.triton")
heavy = ("torch", "onnx", "onnxruntime", "tritonclient", "grpc", "scipy", "sklearn", *ours)
print("LOADED", sorted(name for name in heavy if name in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(PROJECT / part) for part in ("include", "plugins"))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)

    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_airflows_plugin_scan_leaves_the_package_alone() -> None:
    program = """
import sys
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
print("SCANNED", sorted(name for name in ("connection", "steps", "triggers", "watch") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert "SCANNED []" in done.stdout, done.stdout + done.stderr

"""`model-release check`: the rendered config, and what a spec would change of stable's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.environment import S3
from model_release.errors import BadModelConfig
from model_release.ledger.state import Placement, State
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.steps.context import Seen
from model_release.steps.neighbours import refuse_clash
from model_release.triton import config as configs
from tests.unit.config_cases import VERSION, line_spec, sharing
from tests.unit.fake_s3 import FakeS3
from tests.unit.served_toys import ENVIRONMENT


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


def write_spec(folder: Path, spec: ModelSpec) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{spec.name}.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json")))


def environment_of(s3: S3, folder: Path) -> Path:
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    values = {
        "s3": {"endpoint_url": s3.endpoint_url, "bucket": s3.bucket, "prefix": s3.prefix}
        | {"access_key_id": "id", "secret_access_key": "secret"},
        "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
        "router": {"directory": str(folder), "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
    }
    (folder / "environment.yaml").write_text(json.dumps(values))
    return folder / "environment.yaml"


def seal(store: ObjectStore, spec: ModelSpec, folder: Path, part: Any = "base") -> None:
    """Seal a version of a spec as far as its config goes, and make it stable."""
    archive, config = Archive(store, spec.name), configs.build_config(spec, VERSION)
    (folder / "config.pbtxt").write_text(configs.render(config, epoch=0))
    entry = archive.write(VERSION, part, "config.pbtxt", folder / "config.pbtxt", lambda: None)
    digest = configs.release_digest(config)
    manifest = Manifest(
        model=spec.name, version=VERSION, part=part, contract=1, source=SourceEntry(uri="s3://x/y", sha256="a" * 64),
        files={"config.pbtxt": entry}, tools={}, summary={}, spec_digest=spec.digest, release_digest=digest,
        run_id="run-1", sealed_at=datetime.now(UTC),
    )  # fmt: skip
    archive.seal(manifest, lambda: None)
    state = State(model=spec.name, stable=Placement(fleet="blue", version=VERSION, digest=digest))
    store.put(f"ledger/{spec.name}/state.json", state.model_dump_json().encode())


def checked(folder: Path, *arguments: str, environment: Path | None = None, exit_code: int = 0) -> str:
    given = ["--environment", str(environment)] if environment else []
    done = CliRunner().invoke(app, ["--configs", str(folder / "configs"), *given, *arguments], env={})
    assert done.exit_code == exit_code, done.output
    return done.output


def test_one_named_config_is_shown_and_all_are_not(tmp_path: Path) -> None:
    write_spec(tmp_path / "configs", line_spec())

    assert 'name: "line"' in checked(tmp_path, "check", "line")
    assert "max_batch_size: 8" in checked(tmp_path, "check", "--show")
    assert "max_batch_size: 8" not in checked(tmp_path, "check")
    assert "max_batch_size: 8" not in checked(tmp_path, "check", "line", "--no-show")
    shown = json.loads(checked(tmp_path, "--json", "check", "line"))["configs"]["line"]
    assert "epoch" not in shown["config"]
    assert configs.parse(shown["config"]).max_batch_size == 8


def test_a_config_that_triton_would_refuse_is_bad_by_its_file(tmp_path: Path) -> None:
    write_spec(tmp_path / "configs", line_spec(queue={"priority_levels": 2}))

    told = json.loads(checked(tmp_path, "--json", "check", exit_code=1))

    assert told["ok"] == []
    (problems,) = told["bad"].values()
    assert "default_priority_level must be within 1 and priority_levels, 2" in problems[0]
    assert "line.yaml is not valid" in checked(tmp_path, "check", exit_code=1)


def test_the_difference_is_what_the_spec_changes_of_stables(tmp_path: Path, s3: S3) -> None:
    seal(ObjectStore(s3), line_spec(), tmp_path)
    environment = environment_of(s3, tmp_path)
    write_spec(tmp_path / "configs", line_spec())
    assert f"stable, version {VERSION}, was sealed with the same config" in checked(
        tmp_path, "check", "line", environment=environment
    )

    write_spec(tmp_path / "configs", line_spec(response_cache=True))
    found = json.loads(checked(tmp_path, "--json", "check", "line", environment=environment))["configs"]["line"]

    assert found["stable"] == VERSION
    changed = [line for line in found["diff"] if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["+response_cache {", "+  enable: true", "+}"]
    assert "+response_cache {" in checked(tmp_path, "check", "line", environment=environment)


def test_what_the_benchmark_chose_for_stable_is_said_to_be(tmp_path: Path, s3: S3) -> None:
    store = ObjectStore(s3)
    seal(store, line_spec(), tmp_path)
    seal(store, line_spec(dynamic_batching={"max_queue_delay_microseconds": 0}), tmp_path, "tuned")
    write_spec(tmp_path / "configs", line_spec())

    told = checked(tmp_path, "check", "line", environment=environment_of(s3, tmp_path))

    assert "+  max_queue_delay_microseconds: 2000" in told
    assert "what the benchmark chose for stable" in told


def test_a_first_release_and_a_dead_s3_are_told_and_are_no_fault_of_the_spec(tmp_path: Path, s3: S3) -> None:
    write_spec(tmp_path / "configs", line_spec())
    assert "nothing is stable yet" in checked(tmp_path, "check", "line", environment=environment_of(s3, tmp_path))

    dead = environment_of(s3.model_copy(update={"endpoint_url": "http://127.0.0.1:1"}), tmp_path)
    told = checked(tmp_path, "check", "line", environment=dead)

    assert "it was not compared with stable's" in told


def test_models_of_one_pair_that_a_server_cannot_have_both_are_bad(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    write_spec(folder, sharing(False))
    write_spec(folder, sharing(True, "other"))
    write_spec(folder, sharing(True, "elsewhere", fleet_pair="second"))

    told = json.loads(checked(tmp_path, "--json", "check", exit_code=1))

    assert told["ok"] == ["elsewhere"]
    assert "'cores' is of a device, and shared in other" in told["bad"][str(folder / "line.yaml")][0]
    assert "'cores' is shared, and of a device in line" in told["bad"][str(folder / "other.yaml")][0]
    write_spec(folder, sharing(False, "other"))
    assert json.loads(checked(tmp_path, "--json", "check"))["bad"] == {}


def test_a_release_is_held_against_what_its_servers_serve(s3: S3) -> None:
    store = ObjectStore(s3)

    def planned(spec: ModelSpec) -> None:
        refuse_clash(Seen(spec, ENVIRONMENT, store), configs.build_config(spec, VERSION))

    def serve(fleet: str, spec: ModelSpec) -> None:
        text = configs.render(configs.build_config(spec, VERSION), epoch=3)
        store.put(f"serving/default/{fleet}/{spec.name}/config.pbtxt", text.encode())

    store.put("serving/default/green/.keep", b"")
    store.put("serving/default/bench/broken/config.pbtxt", b"nonsense: 3")
    store.put("serving/default/bench/without/1/model.onnx", b"")
    serve("green", sharing(True, "other"))

    with pytest.raises(BadModelConfig, match="'cores' is of a device, and shared in other on green"):
        planned(sharing(False))
    planned(sharing(True))
    planned(sharing(False, fleet_pair="second"))
    planned(line_spec())
    serve("blue", sharing(True))
    with pytest.raises(BadModelConfig, match="shared in line on blue"):
        planned(sharing(False))

"""`model-release prune`: what it refuses as bad use, and that it deletes nothing unless it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model_release.cli.main import app
from model_release.environment import S3
from model_release.errors import UnknownModel
from model_release.ledger.state import Placement, State
from model_release.repository.manifest import Manifest, SourceEntry, body_of
from model_release.repository.store import ObjectStore
from tests.unit.fake_s3 import FakeS3

OLD, NEW = 20240101000000, 20240201000000


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


@pytest.fixture
def environment(s3: S3, tmp_path: Path) -> Path:
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    keys = {"access_key_id": "id", "secret_access_key": "secret"}
    values = {
        "s3": {"endpoint_url": s3.endpoint_url, "bucket": s3.bucket, "prefix": s3.prefix, **keys},
        "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
        "router": {"directory": str(tmp_path), "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
    }
    path = tmp_path / "environment.yaml"
    path.write_text(json.dumps(values))
    return path


def lay_out(store: ObjectStore, model: str) -> None:
    for version in (OLD, NEW):
        manifest = Manifest(
            model=model, version=version, part="base", contract=1, source=SourceEntry(uri="s3://x/y", sha256="a" * 64),
            files={}, tools={}, summary={}, spec_digest="d", release_digest="r", run_id="run-1",
            sealed_at=datetime.now(UTC) - timedelta(days=400),
        )  # fmt: skip
        store.put(f"archive/{model}/{version}/base/manifest.json", body_of(manifest))


def ran(environment: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--environment", str(environment), "--json", "prune", *arguments])


@pytest.mark.parametrize("arguments", [[], ["digits", "--all"], ["digits", "--keep", "0"], ["--all", "--keep-days=-1"]])
def test_what_is_no_use_of_it_is_refused(environment: Path, arguments: list[str]) -> None:
    assert ran(environment, *arguments).exit_code == 2


def test_a_model_that_neither_the_archive_nor_the_configs_know_is_refused(environment: Path) -> None:
    assert isinstance(ran(environment, "unheard_of").exception, UnknownModel)


def test_it_deletes_nothing_until_it_is_told_to(environment: Path, s3: S3) -> None:
    store = ObjectStore(s3)
    lay_out(store, "retired")
    before = [entry.key for entry in store.objects("")]

    told = json.loads(ran(environment, "retired", "--keep", "1").stdout)
    assert [entry.key for entry in store.objects("")] == before
    assert (told["dry_run"], [each["version"] for each in told["models"][0]["versions"] if each["goes"]]) == (
        True,
        [OLD],
    )

    done = json.loads(ran(environment, "retired", "--keep", "1", "--yes").stdout)
    assert (done["dry_run"], done["freed_bytes"]) == (False, told["freed_bytes"])
    assert [entry.key for entry in store.objects(f"archive/retired/{OLD}/")] == [f"archive/retired/{OLD}/pruned.json"]
    assert store.exists(f"archive/retired/{NEW}/base/manifest.json")


def test_a_model_that_is_refused_keeps_no_other_from_being_pruned_and_is_told(environment: Path, s3: S3) -> None:
    store = ObjectStore(s3)
    for model in ("busy", "free"):
        lay_out(store, model)
    busy = State(model="busy", canary=Placement(fleet="green", version=NEW, digest="r"))
    store.put("ledger/busy/state.json", busy.model_dump_json().encode())

    result = ran(environment, "--all", "--keep", "1", "--yes")

    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [each["model"] for each in told["models"]] == ["free"]
    assert told["problems"][0].startswith("busy: the canary")
    assert store.exists(f"archive/busy/{OLD}/base/manifest.json")

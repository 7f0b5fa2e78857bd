"""The probe on a real S3: it passes, leaves nothing, and finds out when conditions are ignored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from model_release.environment import S3
from model_release.errors import StoreLacksVerb, StoreUnavailable
from model_release.repository.probe import VERBS, probe
from model_release.repository.store import ObjectStore
from sandbox.settings import ROOT
from tests.sandbox.s3_parts import seaweedfs, without_headers
from tests.unit.served_toys import ENVIRONMENT


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3, subprocess.Popen[bytes]]]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as started:
        yield started


@pytest.fixture
def real(running: tuple[S3, subprocess.Popen[bytes]], request: pytest.FixtureRequest) -> S3:
    return running[0].model_copy(update={"prefix": f"tests/{request.node.name}"})


def left_behind(s3: S3) -> list[str]:
    return [entry.key for entry in ObjectStore(s3).objects("")]


def test_seaweedfs_has_every_verb_and_nothing_is_left_there(real: S3) -> None:
    assert probe(real) == [verb.name for verb in VERBS]

    assert left_behind(real) == []


@pytest.mark.parametrize(
    ("dropped", "lacking", "did"),
    [
        ("If-None-Match", r"PutObject with If-None-Match: \*", "ignored the condition"),
        ("If-Match", "PutObject with If-Match", "ignored the condition and took a write with a stale ETag"),
        ("x-amz-checksum-mode", "HeadObject with the CRC64NVME", "tells crc64nvme None"),
        ("x-amz-checksum-crc64nvme", "CRC64NVME", ""),
        ("x-amz-copy-source", "CopyObject", ""),
        ("Range", "GetObject of a range", ""),
    ],
)
def test_a_store_that_ignores_a_header_is_refused_by_the_verb(real: S3, dropped: str, lacking: str, did: str) -> None:
    with without_headers(real, dropped) as ignorant, pytest.raises(StoreLacksVerb, match=f"lacks .*{lacking}.*{did}"):
        probe(ignorant)

    assert left_behind(real) == []


def test_the_proxy_alone_changes_nothing(real: S3) -> None:
    with without_headers(real) as same:
        probe(same)


def test_wrong_keys_are_no_lacking_verb(real: S3) -> None:
    with pytest.raises(StoreUnavailable, match=r"SignatureDoesNotMatch|AccessDenied"):
        probe(real.model_copy(update={"secret_access_key": type(real.secret_access_key)("wrong")}))


def test_a_store_that_is_stopped_is_unavailable(tmp_path: Path) -> None:
    with seaweedfs(tmp_path) as (real, process):
        probe(real)
        process.kill()
        process.wait()

        with pytest.raises(StoreUnavailable):
            probe(real)


def checked(s3: S3, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `model-release check --store` against a store."""
    keys = {"secret_access_key": s3.secret_access_key.get_secret_value() if s3.secret_access_key else None}
    values = {**ENVIRONMENT.model_dump(mode="json"), "s3": {**s3.model_dump(mode="json"), **keys}}
    (folder / "environment.yaml").write_text(yaml.safe_dump(values))
    command = [str(Path(sys.executable).with_name("model-release")), "--environment", str(folder / "environment.yaml")]
    return subprocess.run([*command, "check", "--store"], cwd=ROOT, capture_output=True, text=True, check=False)


def test_check_says_of_a_store_what_it_has_or_lacks(real: S3, tmp_path: Path) -> None:
    done = checked(real, tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(verb.name in done.stdout for verb in VERBS)
    with without_headers(real, "If-None-Match") as ignorant:
        refused = checked(ignorant, tmp_path)
    assert refused.returncode == 1
    assert "lacks" in refused.stderr

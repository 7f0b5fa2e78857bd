"""The ledger of a release that waits for a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_release.environment import S3, Environment
from model_release.identity import Kind, Release
from model_release.ledger.events import Events
from model_release.ledger.state import ClaimRecord, Running, State, StateFile
from model_release.repository.store import ObjectStore
from model_release.spec import Canary
from model_release.steps.context import freeze_spec
from tests.unit import toys
from tests.unit.fake_s3 import FakeS3

VERSION = 20260102000000
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = Release("toy", VERSION, Kind.BUILD, "run-1", by="ada")


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


@pytest.fixture
def environment(s3: S3, tmp_path: Path) -> Environment:
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    return Environment.model_validate(
        {
            "s3": s3,
            "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
            "router": {"directory": tmp_path, "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
        }
    )


def waiting(store: ObjectStore, phase: str, *, held_for_s: float = 600, expired: bool = False, **running: Any) -> State:
    """Write the ledger of a release that waits for a person."""
    spec = toys.spec(canary=Canary(hold_s=600, approval="before_canary").model_dump())
    now = store.now()
    claim = ClaimRecord(
        run_id="run-1", clear_number=0, kind=Kind.BUILD, version=VERSION, phase=phase,
        expires_at=now + timedelta(seconds=-5000 if expired else 60), held_until=now + timedelta(seconds=held_for_s),
    )  # fmt: skip
    release = Running(
        run_id="run-1", clear_number=0, version=VERSION, kind=Kind.BUILD, checkpoint="s3://c", fleet="green",
        spec_digest=freeze_spec(store, spec, lambda: None), first_release=False, stages=[10, 100], started_at=now,
        approval="before_canary", **running,
    )  # fmt: skip
    Events(store, "toy").append(1, "planned", now, {
        "run": "run-1#0", "version": VERSION, "kind": "build", "by": "ada", "fleet": "green", "stages": [10, 100],
    })  # fmt: skip
    return StateFile(store, "toy").change(
        lambda state: state.model_copy(update={"claim": claim, "release": release, "epoch": 4})
    )


def decided(store: ObjectStore) -> list[dict[str, Any]]:
    return [event for event in Events(store, "toy").read() if event["what"] == "decided"]

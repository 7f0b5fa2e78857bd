"""The report of a release: worked out from the ledger alone, whoever ended the release, and a page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.environment import S3
from model_release.errors import ReportMissing
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks, StageLooks
from model_release.report.release import assemble
from model_release.report.release_page import release_page
from model_release.repository.store import ObjectStore
from tests.unit.fake_s3 import FakeS3

MODEL, VERSION = "digits", 20260102000000
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GATE = {
    "name": "errors", "kind": "error_rate", "dry_run": False, "verdict": "rollback", "sentence": "errors: 9 of 100",
    "canary": {"n": 100, "bad": 9, "estimate": 0.09, "interval": [0.05, 0.16]},
    "stable": {"n": 900, "bad": 1, "estimate": 0.001, "interval": [0.0, 0.005]},
    "e_value": 412.0, "p_value": 0.002, "rollback_at": 100.0, "advance_at": 20.0, "margin": 0.005,
    "worst_excess": 0.12, "advance_e_value": 0.1, "phi": 1.0, "objective": None,
}  # fmt: skip


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


@pytest.fixture
def store(s3: S3) -> ObjectStore:
    return ObjectStore(s3)


class Told:
    """A ledger that is written by hand, one event a second."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.events, self.epoch = store, Events(store, MODEL), 0

    def tell(self, what: str, run: str = "run-1#0", version: int = VERSION, **facts: Any) -> None:
        self.epoch += 1
        whose = {"run": run, "version": version, "kind": "build", "by": "ada"}
        self.events.append(self.epoch, what, NOW + timedelta(seconds=self.epoch), {**whose, **facts})

    def plan(self, run: str = "run-1#0", version: int = VERSION) -> None:
        facts = {"fleet": "green", "stages": [10, 50, 100], "checkpoint": "s3://t/c", "stable": 20260101000000}
        self.tell("planned", run, version, lines=["build digits"], started_at=NOW, reason="", **facts)

    def look_at(self, stage: int, action: str, run: str = "run-1#0") -> None:
        self.tell("shifted", run, stage=stage)
        verdict = {"t": 9.0, "stage": stage, "verdict": action, "action": action, "reason": "as told", "gates": [GATE]}
        looks = [
            {"t": 5.0 + place, "canary": {"requests": 50, "errors": 4}, "stable": {"requests": 450, "errors": 1}}
            for place in range(2)
        ]
        kept = StageLooks(stage=stage, started_at=NOW, baseline={}, counters={}, looks=looks, verdict=verdict)
        Looks(self.store, MODEL, VERSION, run).write(kept, None)
        self.tell("judged", run, **verdict)


@pytest.fixture
def told(store: ObjectStore) -> Told:
    return Told(store)


def test_a_release_that_was_rolled_back_says_why_with_its_numbers(told: Told, store: ObjectStore) -> None:
    told.plan()
    told.look_at(10, "rollback")
    told.tell("rolled_back", rolled_back=VERSION, reason="stage 10 %: as told", rejected=True)
    told.tell("finished", green=False, reason="version 2 was rolled back")

    report = assemble(store, MODEL)

    assert (report.outcome, report.why) == ("rolled back", "stage 10 %: as told")
    assert [(stage.stage, stage.requests, stage.errors) for stage in report.stages] == [
        (10, {"canary": 100, "stable": 900}, {"canary": 8, "stable": 2})
    ]
    assert report.stages[0].verdict is not None
    assert report.stages[0].verdict["gates"] == [GATE]
    assert report.seconds == told.epoch


def test_what_others_did_to_a_release_is_its_story_too_until_the_version_is_tried_again(
    told: Told, store: ObjectStore
) -> None:
    told.plan()
    told.plan("other-1#0", VERSION + 1)
    told.tell("rolled_back", "abort-1#0", rolled_back=VERSION, reason="wrong labels", rejected=True)
    told.plan("run-1#1")
    told.tell("rolled_back", "abort-2#0", rolled_back=VERSION, reason="again", rejected=True)

    assert assemble(store, MODEL, "run-1#0").why == "wrong labels"
    assert assemble(store, MODEL, "run-1#1").why == "again"
    assert assemble(store, MODEL, "other-1#0").outcome == "running"


def test_the_newest_release_is_meant_unless_a_version_or_a_run_is_named(told: Told, store: ObjectStore) -> None:
    told.plan()
    told.tell("finished", green=True, stable=VERSION)
    told.plan("run-2#0", VERSION + 1)
    told.tell("healed", "guard#0", VERSION, by="guard", reason="b loaded stable again")

    assert assemble(store, MODEL).version == VERSION + 1
    assert assemble(store, MODEL, version=VERSION).outcome == "released"
    with pytest.raises(ReportMissing, match=r"version 7\. 'model-release history digits'"):
        assemble(store, MODEL, version=7)


def test_a_release_that_its_plan_refused_has_a_report(told: Told, store: ObjectStore) -> None:
    told.tell("failed", phase="plan", error="the build is stale")
    told.tell("finished", green=False, reason="plan: the build is stale")

    report = assemble(store, MODEL)

    assert (report.outcome, report.why, report.fleet) == ("failed", "plan: the build is stale", None)
    assert "the build is stale" in release_page(report)


def test_the_page_needs_nothing_else_and_believes_no_text(told: Told, store: ObjectStore) -> None:
    told.plan()
    told.look_at(10, "advance")
    told.tell("failed", phase="deploy", error="<script>alert(1)</script> & more")
    told.tell("finished", green=False, reason="<img src=x onerror=alert(1)>")

    page = release_page(assemble(store, MODEL))

    assert page == release_page(assemble(store, MODEL)), "the same report gives the same page"
    assert "&lt;script&gt;" in page
    assert not re.search(r"<(script|img|link|iframe)", page)
    assert re.findall(r'(?:href|url\()"?(https?:[^"]*)', page) == []
    assert page.count("<svg") == 2
    assert "412 of 100" in page


def test_the_command_writes_the_page_or_the_same_as_json(told: Told, s3: S3, tmp_path: Path) -> None:
    told.plan()
    told.tell("finished", green=True, stable=VERSION)
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    values = {
        "s3": {**s3.model_dump(exclude={"secret_access_key"}), "secret_access_key": "secret"},
        "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
        "router": {"directory": str(tmp_path), "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
    }
    environment, configs = tmp_path / "environment.json", tmp_path / "configs"
    environment.write_text(json.dumps(values))
    configs.mkdir()
    (configs / "digits.yaml").write_text(
        "name: digits\nsource: {format: state_dict, checkpoint: 's3://t/c', factory: 'a:b'}\n"
        "inputs: [{name: x, dtype: float32, shape: [2]}]\noutputs: [{name: y, dtype: float32, shape: [2]}]\n"
    )
    options = ["--environment", str(environment), "--configs", str(configs), "report", "digits", "--out"]

    for name, beginning in (("r.html", "<!doctype html>"), ("r.json", "{")):
        result = CliRunner().invoke(app, [*options, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_text().startswith(beginning)
    assert json.loads((tmp_path / "r.json").read_text())["outcome"] == "released"

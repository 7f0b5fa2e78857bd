"""The whole story without Airflow, on real parts: first release, canary, rollback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from example_models import digits_data
from model_release.cli import rendered
from model_release.cli.main import app
from model_release.environment import Environment
from model_release.errors import (
    AlreadyStable,
    NoAdvanceVerdict,
    RolledBack,
    RouteAloneSetBack,
    StaleBuild,
    StoreUnavailable,
    Superseded,
    VersionRejected,
)
from model_release.export import write as export_write
from model_release.gates.looks import Look
from model_release.identity import Kind, Release
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.spec import AccuracyGate, DisagreementGate
from model_release.steps import abort, benchmark, deploy, export, plan, promote, publish, roll_back, shift, validate
from model_release.traffic import connect
from model_release.triton.replica import ReplicaClient
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model, await_true, environment_file
from tests.sandbox.shelf import Shelf

ANSWERS = [
    AccuracyGate(name="right", kind="accuracy", dry_run=True),
    DisagreementGate(name="same", kind="disagreement", dry_run=True),
]
STAGES = ["shift 10", "watch 10", "shift 50", "watch 50", "shift 100", "watch 100"]


def deployed(model: Model, release: Release) -> None:
    """Bring a release up to its canary at weight 0."""
    plan.run(release, model.environment, model.spec)
    for step in (export, validate, publish, benchmark, deploy):
        step.run(release, model.environment)


def both_fleets_answered(model: Model) -> None:
    """The canary and stable answered the same samples, each once; stable was looked at before the first shift."""
    store = ObjectStore(model.environment.s3)
    looks = Looks(store, model.name, SECOND, model.build(SECOND).holder)
    before = [Look.from_dict(line) for line in looks.read_before()]
    assert sum(look.stable.requests for look in before) > 0
    assert {look.canary.requests for look in before} == {0}
    last, _ = looks.read(100)
    assert last is not None
    assert last.verdict is not None
    right, same = (gate for gate in last.verdict["gates"] if gate["name"] in ("right", "same"))
    golden = len(digits_data.split().golden.label)
    assert 32 <= right["n"] <= golden
    assert same["n"] >= 16
    assert right["difference"]["interval"][0] <= right["difference"]["estimate"]


def test_a_second_version_takes_over_in_stages_and_goes_back_without_a_client_error(model: Model) -> None:
    with Clients(model) as early:
        await_true(lambda: early.seen, "no request was answered")
        model.release(model.build(FIRST))
    assert model.steps() == [
        "plan", "export", "validate", "publish", "benchmark", "deploy", "shift 100", "watch 100", "promote", "finish",
    ]  # fmt: skip
    cached = model.spec.serving.model_copy(update={"response_cache": True})
    found = rendered.compare(model.spec.model_copy(update={"serving": cached}), model.environment)
    assert (found.stable, found.benchmarked, found.why_not) == (FIRST, True, None)
    changed = [line for line in found.diff or [] if line[0] in "+-" and "max_queue_delay" not in line]
    assert changed[2:] == ["+response_cache {", "+  enable: true", "+}"]

    [told] = [told.result for told in model.told if told.step == "benchmark"]
    assert told is not None
    for parity in told["served_parity"].values():
        assert parity["batched"], parity
        assert parity["told_apart"] == parity["recorded"] == 32
        assert 0 < parity["worst_of_tolerance"] < 1

    gates = [*model.spec.canary.gates, *ANSWERS]
    model.spec = model.spec.model_copy(update={"canary": model.spec.canary.model_copy(update={"gates": gates})})
    with Clients(model) as clients:
        model.release(model.build(SECOND))
        both_fleets_answered(model)
        assert [step for step in model.steps() if "shift" in step or "watch" in step] == STAGES
        state = model.state
        assert (state.stable and state.stable.version, state.standby and state.standby.version) == (SECOND, FIRST)
        assert set(clients.by_version()) == {str(FIRST), str(SECOND)}

        model.release(model.restore(FIRST))
        assert "benchmark" not in model.steps()
        reused = next(told.result for told in model.told if told.step == "deploy")
        assert reused is not None
        assert reused["reused_standby"]
        await_true(lambda: clients.seen[200, "stable", str(FIRST)] > 20, "the restored version answers")
    assert clients.failed() == 0, clients.problems[:3]

    state = model.state
    assert state.stable is not None
    assert state.stable.version == FIRST
    assert [entry.version for entry in state.rejected] == [SECOND]
    assert state.claim is None


def test_weights_in_a_second_file_are_proved_sealed_and_served(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_write, "MOST_BYTES", 50_000)  # weights of 2 GB are Triton's reason, and too slow a test
    release = model.build(FIRST)
    deployed(model, release)

    archive = Archive(ObjectStore(model.environment.s3), model.name)
    files = archive.require(FIRST).files
    assert files["model.onnx"].size_bytes < 50_000 < files["model.onnx.data"].size_bytes
    canary = model.state.canary
    assert canary
    live = digits_data.split().live
    for replica in model.environment.pairs["default"].fleet(canary.fleet).replicas:
        with ReplicaClient(replica, model.environment) as client:
            answers = client.infer(model.name, {"image": live.image[:32]})["logits"].argmax(1)
            assert (answers == live.label[:32]).mean() > 0.9
    roll_back.run(release, model.environment, "the test is over")


@pytest.mark.usefixtures("sealed")
def test_the_split_that_clients_see_is_the_one_that_was_asked(model: Model) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    deployed(model, second)
    shift.run(second, model.environment, 10)
    with Clients(model, rate_per_s=400) as clients:
        await_true(lambda: clients.seen.total() > 1500, "clients ask")
    seen = clients.by_version()
    assert clients.failed() == 0, clients.problems[:3]
    # 10 % of 1,500 has a standard deviation of 0.8 points; four of them are allowed.
    assert seen[str(SECOND)] / sum(seen.values()) == pytest.approx(0.10, abs=0.031)
    roll_back.run(second, model.environment, "the test is over")


def test_a_candidate_that_fails_on_real_traffic_alone_is_stopped_by_the_canarys_gate(
    model: Model, shelf: Shelf
) -> None:
    shelf.seal(model, [FIRST])
    with Clients(model):
        model.release(model.build(FIRST))
    with Clients(model) as clients:
        with pytest.raises(RolledBack, match=r"stage \d+ %: errors: \d+ of \d+ canary requests"):
            model.release(model.build(BROKEN))
        await_true(lambda: clients.seen[200, "stable", str(FIRST)] > 20, "stable answers")
        stable_answers = clients.seen[200, "stable", str(FIRST)]
        await_true(lambda: clients.seen[200, "stable", str(FIRST)] > stable_answers + 100, "stable goes on")
    assert clients.failed() == 0, "stable answered what the broken candidate could not"

    assert {"validate", "publish", "benchmark", "deploy"} <= {told.step for told in model.told if told.error is None}
    state = model.state
    assert state.rejection_of(BROKEN) is not None
    assert state.canary is None
    store = ObjectStore(model.environment.s3)
    assert ServingPrefix(store, "default", "green", model.name).config() is None
    with pytest.raises(VersionRejected, match="Only a restore that says why"):
        model.release(model.build(BROKEN, "run-again"))


def test_a_release_that_is_stable_or_stale_is_refused_before_anything_is_touched(
    model: Model, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.seal(model, [SECOND])
    with Clients(model):
        model.release(model.build(SECOND))
    route = connect(model.environment).read(model.name)

    with pytest.raises(AlreadyStable):
        model.release(model.build(SECOND, "run-again"))
    with pytest.raises(StaleBuild, match=str(SECOND)):
        model.release(model.build(FIRST, "run-late"))
    assert model.state.release is not None
    assert model.state.release.outcome == "stale"
    assert model.state.claim is None, "a refused release holds no one up"
    monkeypatch.setattr(plan, "_refuse_before_the_claim", lambda *_: None)
    with pytest.raises(AlreadyStable):
        plan.run(model.build(SECOND, "run-meanwhile"), model.environment, model.spec)
    assert model.state.claim is None, "nor does one whose version became stable while it took the claim"
    assert connect(model.environment).read(model.name) == route
    assert Archive(ObjectStore(model.environment.s3), model.name).versions() == [SECOND]


@pytest.mark.usefixtures("sealed")
def test_a_canary_without_enough_data_is_held_and_then_goes_back(model: Model) -> None:
    """Missing data neither advances nor rolls back by itself: the config's hold decides."""
    with Clients(model):
        model.release(model.build(FIRST))
    canary = model.spec.canary.model_copy(update={"max_bake_s": 4, "hold_s": 4, "min_requests": 10**6})
    patient = Model(model.spec.model_copy(update={"canary": canary}), model.environment)
    with (
        Clients(model) as clients,
        pytest.raises(RolledBack, match=r"deadline: 8 s are over; gathering: \d+ of 1000000"),
    ):
        patient.release(patient.build(SECOND))
    assert clients.failed() == 0, clients.problems[:3]

    events = Events(ObjectStore(model.environment.s3), model.name).read()
    assert [event["stage"] for event in events if event["what"] == "held"] == [10]
    assert model.state.canary is None


@pytest.mark.usefixtures("sealed")
def test_tasks_marked_success_by_hand_move_no_traffic(model: Model) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    deployed(model, second)
    route = connect(model.environment).read(model.name)

    for attempt in (
        lambda: shift.run(second, model.environment, 50),
        lambda: shift.run(second, model.environment, 100),
        lambda: promote.run(second, model.environment),
    ):
        with pytest.raises(NoAdvanceVerdict):
            attempt()
    assert route is not None
    now = connect(model.environment).read(model.name)
    assert now is not None
    assert now.weights == route.weights == {"blue": 100, "green": 0}
    roll_back.run(second, model.environment, "the test is over")


@pytest.mark.usefixtures("sealed")
def test_a_person_aborts_a_live_canary_and_its_run_writes_nothing_more(model: Model) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    deployed(model, second)
    shift.run(second, model.environment, 10)

    aborting = Release(model.name, SECOND, Kind.RESTORE, "abort-1", reason="labels look wrong", by="ada")
    abort.run(aborting, model.environment)

    route = connect(model.environment).read(model.name)
    assert route is not None
    assert (route.canary, dict(route.weights)) == (None, {"blue": 100, "green": 0})
    rejection = model.state.rejection_of(SECOND)
    assert rejection is not None
    assert rejection.reason == "labels look wrong"
    with pytest.raises(Superseded):
        shift.run(second, model.environment, 10)
    with pytest.raises(Superseded):
        roll_back.run(second, model.environment, "late")


@pytest.mark.usefixtures("sealed")
def test_the_route_goes_back_with_s3_down(model: Model, dead_s3: Environment) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    deployed(model, second)
    shift.run(second, model.environment, 10)

    with pytest.raises(StoreUnavailable):
        roll_back.run(second, dead_s3, "errors")

    assert weights(model) == {"blue": 100, "green": 0}
    roll_back.run(second, model.environment, "errors")
    assert model.state.canary is None


@pytest.mark.usefixtures("sealed")
def test_an_operator_takes_a_canary_out_of_the_traffic_with_s3_down(
    model: Model, dead_s3: Environment, tmp_path: Path
) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    deployed(model, model.build(SECOND))
    shift.run(model.build(SECOND), model.environment, 10)
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / f"{model.name}.yaml").write_text(yaml.safe_dump(model.spec.model_dump(mode="json")))

    def rollback(environment: Environment) -> BaseException | None:
        file = environment_file(tmp_path / "environment.yaml", environment)
        asked = ("rollback", model.name, "--reason", "labels look wrong")
        return CliRunner().invoke(app, ["--environment", str(file), "--configs", str(configs), *asked]).exception

    told = rollback(dead_s3)
    assert isinstance(told, RouteAloneSetBack)
    assert f"version {FIRST} has all the traffic, the canary {SECOND} has none" in str(told)
    assert weights(model) == {"blue": 100, "green": 0}

    assert rollback(model.environment) is None
    assert model.state.canary is None
    assert isinstance(rollback(dead_s3), StoreUnavailable), "without a canary the router has nothing to go back to"


def weights(model: Model) -> dict[str, int]:
    route = connect(model.environment).read(model.name)
    assert route is not None
    return dict(route.weights)


@pytest.mark.usefixtures("sealed")
def test_a_killed_release_is_undone_by_the_next_and_clients_notice_nothing(
    model: Model, sandbox: Sandbox, tmp_path: Path
) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    folder = tmp_path / "configs"
    folder.mkdir()
    slow = model.spec.model_copy(update={"canary": model.spec.canary.model_copy(update={"min_bake_s": 30})})
    (folder / f"{model.name}.yaml").write_text(yaml.safe_dump(slow.model_dump(mode="json")))
    environment = tmp_path / "environment.yaml"
    values = yaml.safe_load(sandbox.home.environment_file.read_text())
    environment.write_text(yaml.safe_dump({**values, "lease_s": 5}))
    command = [
        str(Path(sys.executable).with_name("model-release")), "--configs", str(folder), "--environment",
        str(environment), "release", model.name, "--version", str(SECOND),
        "--checkpoint", str(model.build(SECOND).checkpoint),
    ]  # fmt: skip
    with Clients(model) as clients:
        with (tmp_path / "said").open("w") as said:
            killed = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ)

        def is_canaried() -> bool:
            assert killed.poll() is None, f"it ended before its canary: {(tmp_path / 'said').read_text()}"
            return _weight(model, "green") == 10 and _looked(model)

        try:
            await_true(is_canaried, "the canary gets traffic", 240)
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait()

        await_true(lambda: _is_free(model), "the lease of a killed release ends", 30)
        model.release(model.build(SECOND, "run-again"))
    assert clients.failed() == 0, clients.problems[:3]
    state = model.state
    assert state.stable is not None
    assert state.stable.version == SECOND
    events = [event["what"] for event in Events(ObjectStore(model.environment.s3), model.name).read()]
    assert "rolled_back" in events


def _weight(model: Model, fleet: str) -> int:
    route = connect(model.environment).read(model.name)
    return route.weights[fleet] if route else 0


def _looked(model: Model) -> bool:
    claim = model.state.claim
    return claim is not None and claim.phase.startswith("watch")


def _is_free(model: Model) -> bool:
    claim = model.state.claim
    return claim is None or claim.expires_at < ObjectStore(model.environment.s3).now()


@pytest.mark.usefixtures("sealed")
def test_two_releases_at_once_are_one_after_the_other(model: Model) -> None:
    outcomes: list[str] = []

    def try_to_release(version: int) -> None:
        mine = Model(model.spec, model.environment)
        try:
            mine.release(mine.build(version))
        except Exception as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("released")

    with Clients(model):
        threads = [threading.Thread(target=try_to_release, args=(version,)) for version in (FIRST, SECOND)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["ClaimHeld", "released"]

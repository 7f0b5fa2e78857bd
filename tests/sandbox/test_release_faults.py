"""Bad input and broken parts end a release before anything is served, with a sentence that names what and where."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model_release import export as exporting
from model_release.environment import Environment, Fleet
from model_release.errors import NotAsAsked, ReleaseError, ReplicaUnavailable, StoreUnavailable
from model_release.identity import Release
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, deploy, export, plan, publish, roll_back, shift, validate, watch
from model_release.traffic import connect
from model_release.triton.replica import ReplicaClient
from sandbox.supervisor import Supervisor
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, await_true
from tests.sandbox.shelf import Shelf


def nothing_is_served(model: Model) -> None:
    """No replica was given anything, and no weight was moved."""
    store = ObjectStore(model.environment.s3)
    for fleet in ("blue", "green", "bench"):
        assert ServingPrefix(store, "default", fleet, model.name).config() is None
    route = connect(model.environment).read(model.name)
    assert route is None or not route.released


def refused(model: Model, checkpoint: str) -> str:
    with pytest.raises(NotAsAsked) as caught:
        model.release(model.build(FIRST, checkpoint=checkpoint))
    nothing_is_served(model)
    return str(caught.value)


def test_an_absent_checkpoint_is_named(model: Model) -> None:
    uri = "s3://training/digits_classifier/1999-01-01/model.safetensors"

    assert f"no checkpoint at {uri}" in refused(model, uri)


def test_a_truncated_checkpoint_is_named(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])

    assert f"the checkpoint {path.as_uri()} cannot be read" in refused(model, path.as_uri())


def test_a_checkpoint_of_another_architecture_is_told_by_its_tensors(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"stranger.weight": torch.zeros(3)}, path)

    message = refused(model, path.as_uri())
    assert "does not fit the model that example_models.digits:build builds" in message
    assert "1 unexpected (stranger.weight)" in message


def test_an_onnx_that_disagrees_with_the_model_stops_at_parity(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx = exporting.export_onnx

    def export_another(spec: Any, module: torch.nn.Module, path: Path, **arguments: Any) -> list[Path]:
        with torch.no_grad():
            next(parameter for parameter in module.parameters()).mul_(1.5)
        return list(export_onnx(spec, module, path, **arguments))

    monkeypatch.setattr(exporting, "export_onnx", export_another)

    message = refused(model, str(model.build(FIRST).checkpoint))
    assert "the exported" in message
    assert "disagrees with PyTorch: output 'logits'" in message


def test_with_s3_down_nothing_begins(model: Model, dead_s3: Environment) -> None:
    with pytest.raises(StoreUnavailable, match=r"S3 did not answer for .*Check endpoint_url"):
        Model(model.spec, dead_s3).release(model.build(FIRST))
    nothing_is_served(model)


def test_a_replica_that_is_down_is_named_before_anything_begins(
    model: Model, shelf: Shelf, killed: Callable[[str], Any]
) -> None:
    shelf.seal(model, [SECOND])
    with killed("triton-blue-1"), pytest.raises(ReplicaUnavailable, match="triton-blue-1"):
        model.release(model.build(FIRST))
    nothing_is_served(model)
    with Clients(model):
        model.release(model.build(SECOND))


@pytest.mark.usefixtures("sealed")
def test_one_of_two_replicas_that_refuses_the_load_is_named_and_no_weight_moves(model: Model, sandbox: Sandbox) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    mount = downloads_of(sandbox, "triton-green-1")
    kept = mount.with_name("kept")
    mount.rename(kept)
    mount.write_text("a file where Triton wants a folder for its downloads")
    try:
        with Clients(model) as clients, pytest.raises(ReleaseError) as caught:
            model.release(model.build(SECOND))
    finally:
        mount.unlink()
        kept.rename(mount)
    assert "triton-green-1 refused to load" in str(caught.value)
    assert clients.failed() == 0, clients.problems[:3]
    assert set(clients.by_version()) == {str(FIRST)}
    assert model.state.canary is None
    assert model.state.rejected == []


def downloads_of(sandbox: Sandbox, name: str) -> Path:
    """The folder that a replica downloads models to."""
    pid = Supervisor(sandbox.home).states()[name].pid
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return Path(next(each for each in variables if each.startswith("TRITON_AWS_MOUNT_DIRECTORY=")).split("=", 1)[1])


def test_a_version_that_ends_its_server_is_stopped_on_bench_and_costs_the_others_nothing(
    model: Model, shelf: Shelf, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server on bench dies of its first inference, and is killed for it once."""
    shelf.seal(model, [FIRST])
    infer, doomed = ReplicaClient.infer, [Supervisor(sandbox.home).state("triton-bench-0").pid]

    def deadly(self: ReplicaClient, *given: Any, **named: Any) -> Any:
        if self.name == "triton-bench-0" and doomed:
            os.kill(doomed.pop(), signal.SIGKILL)
        return infer(self, *given, **named)

    with Clients(model):
        model.release(model.build(FIRST))
    with monkeypatch.context() as patch, Clients(model) as clients:
        patch.setattr(ReplicaClient, "infer", deadly)
        with pytest.raises(ReleaseError, match="the server triton-bench-0 was up, and is not since it was given"):
            model.release(model.build(SECOND))
    assert clients.failed() == 0, clients.problems[:3]
    assert ServingPrefix(ObjectStore(model.environment.s3), "default", "bench", model.name).config() is None
    await_true(lambda: Supervisor(sandbox.home).state("triton-bench-0").state == "RUNNING", "bench is up again")


def with_a_new_replica(environment: Environment) -> Environment:
    """The environment after a replica was added to green, one that does not have the version."""
    pair = environment.pairs["default"]
    wider = Fleet(replicas=[*pair.green.replicas, *pair.bench.replicas])
    return environment.model_copy(update={"pairs": {"default": pair.model_copy(update={"green": wider})}})


def judged(release: Release, environment: Environment) -> dict[str, Any]:
    """The look at the first stage whose verdict is to advance."""
    told: dict[str, Any] = {}

    def advances() -> bool:
        told.update(watch.look(release, environment, 10))
        return bool(told["verdict"] == "advance")

    await_true(advances, "the canary is as good as stable", 240)
    return told


@pytest.mark.usefixtures("sealed")
def test_a_canary_replica_that_dies_under_traffic_costs_no_client_a_request(
    model: Model, sandbox: Sandbox, killed: Callable[[str], Any]
) -> None:
    """The neighbour answers what the dead one dropped; no stage ends or opens before all replicas are proved."""
    with Clients(model):
        model.release(model.build(FIRST))
    second = model.build(SECOND)
    plan.run(second, model.environment, model.spec)
    for step in (export, validate, publish, benchmark, deploy):
        step.run(second, model.environment)
    shift.run(second, model.environment, 10)
    with Clients(model) as clients:
        await_true(lambda: clients.by_version().get(str(SECOND), 0) > 10, "the canary answers")
        held = judged(second, with_a_new_replica(model.environment))
        assert held["action"] is None
        assert "the advance is held: the replica triton-bench-0 is not proved" in held["reason"]
        assert judged(second, model.environment)["action"] == "advance"
        with killed("triton-green-0"):
            before = clients.by_version()[str(SECOND)]
            await_true(lambda: clients.by_version()[str(SECOND)] > before + 20, "the neighbour answers")
            with pytest.raises(ReplicaUnavailable, match="triton-green-0"):
                shift.run(second, model.environment, 10)
            roll_back.run(second, model.environment, "a replica died")
        assert clients.failed() == 0, clients.problems[:3]
    assert model.state.canary is None

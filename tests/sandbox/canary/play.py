"""
Play a scene of a canary under live traffic, and tell what came of it.

Each is a release of its own from plan to deploy; then its stages are shifted and looked at as a release does, while
clients ask all the time and the scene's fault is let in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

from model_release.environment import Environment
from model_release.errors import RolledBack
from model_release.identity import Release
from model_release.spec import AccuracyGate, ErrorRateGate, LatencyGate, ModelSpec
from model_release.steps import deploy, export, finish, plan, publish, roll_back, shift, validate, watch
from model_release.traffic import connect
from sandbox.triton import faults_file
from tests.sandbox.canary.live import Live, suffer
from tests.sandbox.canary.relay import Relay
from tests.sandbox.canary.scenes import Scene, clients_of
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import CHECKPOINTS, FIRST, SECOND, Clients, Model, await_true, quick_spec, remove

#: What a model with a p99 objective of 50 ms has by default.
TRY_TIMEOUT_S = 1.0
LOOK_S = 1.0
#: So many requests of the canary come before its fault.
HEALTHY_FIRST = 60
_FIRST_OF_SCENES, VERSION_OF_SPLIT = 20260201000000, 20260202000000


def live_spec(name: str, scene: Scene | None = None) -> ModelSpec:
    """The example with the gates' own margins of a small canary, and bakes of seconds."""
    spec = quick_spec(name)
    gates = [
        ErrorRateGate(name="errors", kind="error_rate", margin=0.02),
        LatencyGate(name="latency", kind="latency", slower_than=scene.slower_than if scene else 1.5, margin=0.2),
        AccuracyGate(name="accuracy", kind="accuracy", allowed_drop=0.02, margin=0.05, requests_per_look=32),
    ]
    timing = {
        "warmup_s": 3,
        "min_bake_s": 10,
        "max_bake_s": 120,
        "look_interval_s": LOOK_S,
        "hold_s": 0,
        "try_timeout_s": TRY_TIMEOUT_S,
    }
    asked: dict[str, Any] = {"gates": gates, "min_requests": 100, "stages": [10, 50, 100]}
    if scene is not None:
        asked |= {"sticky_header": "x-user" if scene.sticky else None, "alpha_advance": scene.alpha_advance}
    canary = spec.canary.model_copy(update={**timing, **asked})
    instances = spec.serving.instance_group.model_copy(update={"count": scene.instances if scene else 1})
    serving = spec.serving.model_copy(update={"instance_group": instances})
    return spec.model_copy(update={"canary": canary, "serving": serving})


@dataclass
class Told:
    """What came of a scene; seconds are from the fault, None where there was no such thing."""

    scene: Scene
    verdict: str
    reason: str
    verdict_after_s: float | None
    no_weight_after_s: float | None
    weight_0_after_s: float | None
    canary_requests: int
    canary_errors: int
    client_requests: int
    client_errors: int

    @property
    def right(self) -> bool:
        """Whether the verdict is one that is right, and no client saw an error that both arms did not have."""
        return self.verdict in self.scene.expected and (self.client_errors == 0 or self.scene.key == "h")


@contextmanager
def stage_of(sandbox: Sandbox, name: str, relay: Relay) -> Iterator[Model]:
    """A model whose first version is stable; what is left of it goes afterwards."""
    environment = through(relay, sandbox.environment)
    model = Model(live_spec(name), sandbox.environment)
    model.spec = quick_spec(name)
    with Clients(model):
        model.release(model.build(FIRST))
    model.environment = environment
    try:
        yield model
    finally:
        faults_file(sandbox.home.triton / "models").unlink(missing_ok=True)
        remove(model)


def through(relay: Relay, environment: Environment) -> Environment:
    """Return the environment whose router is asked through the relay."""
    return environment.model_copy(update={"router": environment.router.model_copy(update={"admin": [relay.address]})})


def version_of_scene(number: int) -> int:
    """Return the version that is released in a scene; each has one of its own."""
    return _FIRST_OF_SCENES + number


def _deployed(model: Model, version: int) -> Release:
    """Build and deploy a version of SECOND's weights, up to its canary without weight."""
    release = model.build(version, checkpoint=CHECKPOINTS[SECOND], benchmark=False)
    plan.run(release, model.environment, model.spec)
    for step in (export, validate, publish, deploy):
        step.run(release, model.environment)
    return release


def play(scene: Scene, number: int, sandbox: Sandbox, model: Model, relay: Relay) -> Told:
    """Release, let the fault in at the scene's stage, look until the stage is decided or over, and go back."""
    model.spec, version = live_spec(model.name, scene), version_of_scene(number)
    with ExitStack() as stack:
        suffer(sandbox, model, version, scene.as_usual, scene.as_usual)
        clients = [stack.enter_context(each) for each in clients_of(scene, model)]
        live = Live(sandbox, model, _deployed(model, version), relay, stack)
        counted, fleet = live.counters(), live.fleet
        decided, began, ended, first_zero = _stages(scene, live)
        verdict_after_s = ended - began if decided["action"] else None
        undone = _go_back(live)
        after = connect(model.environment).counters(model.name, "default")[fleet]
        client_errors, client_requests = (
            sum(each.failed() for each in clients),
            sum(each.seen.total() for each in clients),
        )
    for thread in live.pending:
        thread.join()
    faults_file(sandbox.home.triton / "models").unlink(missing_ok=True)
    return Told(
        scene,
        verdict=decided["action"] or "none",
        reason=decided["reason"],
        verdict_after_s=verdict_after_s,
        no_weight_after_s=first_zero,
        weight_0_after_s=undone,
        canary_requests=after.requests - counted.requests,
        canary_errors=after.errors - counted.errors,
        client_requests=client_requests,
        client_errors=client_errors,
    )


def _stages(scene: Scene, live: Live) -> tuple[dict[str, Any], float, float, float | None]:
    """
    Go through the stages.

    Returns the last look, when the fault came, when that look was over, and how long after the fault the weight was
    withdrawn.
    """
    began = ended = time.monotonic()
    first_zero = None
    decided: dict[str, Any] = {"action": None, "reason": ""}
    for stage in [each for each in live.model.spec.canary.stages if each <= scene.stage]:
        shift.run(live.release, live.model.environment, stage)
        if stage == scene.stage and scene.fault is not None:
            enough = live.counters().requests + HEALTHY_FIRST
            await_true(lambda enough=enough: live.counters().requests > enough, "healthy requests come first")
            watch.look(live.release, live.model.environment, stage)
            began = time.monotonic()
            scene.fault(live)
        deadline = time.monotonic() + scene.longest_s
        while decided["action"] is None and time.monotonic() < deadline:
            started = time.monotonic()
            decided = watch.look(live.release, live.model.environment, stage)
            ended = time.monotonic()
            if first_zero is None and getattr(live.model.state.weights.intent, live.fleet) == 0:
                first_zero = time.monotonic() - began
            time.sleep(max(0.0, LOOK_S - (time.monotonic() - started)))
        if decided["action"] != "advance" or stage == scene.stage:
            break
        decided = {"action": None, "reason": ""}
    return decided, began, ended, first_zero


def _go_back(live: Live) -> float | None:
    """End as the release would; a model that hangs does so until its weight is 0, or nothing could unload it."""
    model, fleet = live.model, live.fleet
    done: list[dict[str, Any]] = []
    back = Thread(target=lambda: done.append(roll_back.run(live.release, model.environment, "the scene is over")))
    live.relay.open()
    back.start()

    def is_back() -> bool:
        weights = model.state.weights
        return weights.confirmed == weights.intent and getattr(weights.intent, fleet) == 0

    await_true(is_back, "the traffic is back")
    live.suffer({})
    back.join()
    _finish(live.release, model.environment)
    return float(done[0]["weight_0_after_s"]) if done and done[0]["rolled_back"] else None


def _finish(release: Release, environment: Environment) -> None:
    with suppress(RolledBack):
        finish.run(release, environment)


def shares_of(model: Model, *, requests: int = 2000) -> dict[int, tuple[int, int]]:
    """Return, by weight, how many requests clients sent and how many of them the canary answered."""
    release = _deployed(model, VERSION_OF_SPLIT)
    router, seen = connect(model.environment), {}
    deployed = router.read(model.name)
    assert deployed is not None
    stable, canary = str(deployed.stable), str(deployed.canary)
    for percent in (10, 50):
        shared = replace(deployed, weights={stable: 100 - percent, canary: percent})
        router.set(shared)
        router.confirm(shared, 15)
        with Clients(model, rate_per_s=400) as clients:
            await_true(lambda clients=clients: clients.seen.total() > requests, "clients ask", 120)
        by_version = clients.by_version()
        seen[percent] = (sum(by_version.values()), by_version.get(str(release.version), 0))
    roll_back.run(release, model.environment, "the scene is over")
    _finish(release, model.environment)
    return seen

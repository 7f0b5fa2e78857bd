"""
A step that was paused just before a write, and wakes up after a restore has taken the claim, changes nothing.

Each step is run once to list its writes; then it is stopped before each of them in turn. Triton's own calls know no
token: what a zombie loads or unloads is healed by one look of the guard, and clients see nothing of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from model_release.errors import ReleaseError
from model_release.identity import Kind, Release
from model_release.ledger.state import State, StateFile
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps import (
    benchmark,
    deploy,
    export,
    finish,
    guard,
    plan,
    promote,
    publish,
    roll_back,
    shift,
    validate,
)
from model_release.traffic import connect
from model_release.traffic.router import Route
from model_release.triton import config as configs
from model_release.triton import fleet as fleets
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import CHECKPOINTS, FIRST, SECOND, Clients, Model, await_true, quick_spec, remove
from tests.sandbox.shelf import Shelf
from tests.sandbox.stopping import CHECK, Ended, Point, points_of, stopped

#: Sealed, and never released: what the restore that takes over asks for.
OLDER = 20251231000000


class Held(BaseException):
    """The restore has put the canary's weight to 0, and is held there."""


@dataclass
class Scene:
    """A model with FIRST stable on blue and SECOND deployed on green, and what it takes to have it so again."""

    model: Model
    store: ObjectStore
    state: State
    route: Route

    @property
    def second(self) -> Release:
        return self.model.build(SECOND)

    def set_up(self, percent: int = 0, **changes: Any) -> None:
        """Have the ledger and the route as before the step, under new epochs, with the claim the build's."""
        expires_at = self.store.now() + timedelta(seconds=600)

        def again(now: State) -> State:
            claim = self.state.claim
            assert claim
            claim = claim.model_copy(update={"expires_at": expires_at})
            return self.state.model_copy(update={"epoch": now.epoch + 1, "claim": claim, **changes})

        epoch = StateFile(self.store, self.model.name).change(again).epoch
        router, weights = connect(self.model.environment), {"blue": 100 - percent, "green": percent}
        router.set(replace(self.route, epoch=epoch, weights=weights))
        router.confirm(replace(self.route, epoch=epoch, weights=weights), 15)
        for entry in self.store.objects(f"ledger/{self.model.name}/looks/"):
            self.store.delete(entry.key)

    def shown(self) -> dict[str, Any]:
        """Everything that a zombie might change: the route, and the ETag of every object of the model's."""
        roots = [f"serving/default/{fleet}/{self.model.name}/" for fleet in ("blue", "green", "bench")]
        entries = [entry for root in (*roots, f"ledger/{self.model.name}/") for entry in self.store.objects(root)]
        return {
            "route": connect(self.model.environment).read(self.model.name),
            **{entry.key: (entry.etag, entry.last_modified) for entry in entries},
        }

    def versions_on(self, fleet: str) -> list[int]:
        """The versions that a replica born now would serve."""
        text = ServingPrefix(self.store, "default", fleet, self.model.name).config()
        return [] if text is None else list(configs.parse(text).version_policy.specific.versions)

    def restore(self) -> None:
        """Another run takes over, up to the end of its plan."""
        run_id = f"restore-{uuid.uuid4().hex[:6]}"
        older = Release(self.model.name, OLDER, Kind.RESTORE, run_id, reason="it was better", by="tests")
        plan.run(older, self.model.environment, self.model.spec)


@pytest.fixture(scope="module")
def scene(trained: Sandbox, shelf: Shelf) -> Iterator[Scene]:
    model = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), trained.environment)
    shelf.seal(model, [FIRST, SECOND])
    older = model.build(OLDER, checkpoint=CHECKPOINTS[FIRST])
    try:
        plan.run(older, model.environment, model.spec)
        for step in (export, validate, publish):
            step.run(older, model.environment)
        with pytest.raises(ReleaseError):
            finish.run(older, model.environment)
        with Clients(model):
            model.release(model.build(FIRST))
        second = model.build(SECOND)
        plan.run(second, model.environment, model.spec)
        for step in (export, validate, publish, benchmark, deploy):
            step.run(second, model.environment)
        route = connect(model.environment).read(model.name)
        assert route
        yield Scene(model, ObjectStore(model.environment.s3), model.state, route)
    finally:
        remove(model)


@pytest.fixture
def held_at_weight_0(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A restore that has only just put the canary's weight to 0: the earliest moment to refuse the build."""

    def hold(*_: object) -> None:
        raise Held

    def restore() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(roll_back, "await_no_requests", hold)
            with suppress(Held):
                scene.restore()

    return restore


def woken(scene: Scene, work: Callable[[], Any], point: Point, take_over: Callable[[], None]) -> tuple[Ended, set[str]]:
    """Stop a step before a point, let another run take over, wake it: how it ended, and what changed by it."""
    with stopped(work, point) as zombie:
        take_over()
        before = scene.shown()
        ended = zombie.wake()
    after = scene.shown()
    return ended, {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def judge(point: Point, ended: Ended, changed: set[str]) -> str | None:
    """Say what a zombie did that it must not, or None."""
    own = {key for key in changed if "/events/" in key or "/looks/" in key}
    if point.kind == "PutObject" and ("/events/" in point.target or "/looks/" in point.target):
        # Append-only, under its own epoch's or run's name: it tells what was done before, and nobody else reads it.
        return None if changed == own and ended.error in (None, "Superseded") else f"changed {changed}, {ended.error}"
    expected = "RouteTakenOver" if point.kind == "route" else "Superseded"
    if ended.error != expected:
        return f"ended with {ended.error}: {ended.sentence}"
    return f"changed {changed}" if changed - may_change(point) else None


def may_change(point: Point) -> set[str]:
    """Return what S3 cannot refuse: the one object of a copy or delete, or a first config, which serves nothing."""
    of_files = point.kind in ("CopyObject", "DeleteObject") and not point.target.endswith("config.pbtxt")
    return {point.target} if of_files or is_reserve(point) else set()


def is_reserve(point: Point) -> bool:
    return point.kind == "PutObject" and point.target.endswith("config.pbtxt") and point.number == 0


def every_zombie_is_refused(
    scene: Scene,
    points: list[Point],
    work: Callable[[], Any],
    set_up: Callable[[], None],
    take_over: Callable[[Point], None],
) -> None:
    problems = []
    for point in points:
        set_up()
        with Clients(scene.model) as clients:
            ended, changed = woken(scene, work, point, partial(take_over, point))
        problem = judge(point, ended, changed)
        if is_reserve(point) and scene.versions_on("green"):
            problem = f"{problem}; green would serve {scene.versions_on('green')}"
        if clients.failed() or not clients.seen:
            problem = f"{problem}; clients: {clients.problems[:3]}"
        if problem:
            problems.append(f"{point}: {problem}")
    assert problems == []


def writes(points: list[Point]) -> list[Point]:
    return [point for point in points if point.is_write]


def test_a_shift_is_refused_at_each_of_its_writes(scene: Scene, held_at_weight_0: Callable[[], None]) -> None:
    work = partial(shift.run, scene.second, scene.model.environment, 10)
    scene.set_up()
    points = writes(points_of(work))
    assert {point.kind for point in points} == {"PutObject", "route"}
    assert len(points) >= 6

    every_zombie_is_refused(scene, points, work, scene.set_up, lambda _: held_at_weight_0())


def test_a_promotion_is_refused_at_each_of_its_writes(scene: Scene, held_at_weight_0: Callable[[], None]) -> None:
    work = partial(promote.run, scene.second, scene.model.environment)
    assert scene.state.release
    verdicts = {str(stage): {"action": "advance"} for stage in scene.state.release.stages}
    judged = scene.state.release.model_copy(update={"verdicts": verdicts})

    def set_up() -> None:
        scene.set_up(percent=100, release=judged)

    set_up()
    points = writes(points_of(work))
    assert {point.kind for point in points} == {"PutObject", "route"}
    assert len(points) >= 6

    every_zombie_is_refused(scene, points, work, set_up, lambda _: held_at_weight_0())


def test_a_deploy_is_refused_at_its_writes(scene: Scene, held_at_weight_0: Callable[[], None]) -> None:
    work = partial(deploy.run, scene.second, scene.model.environment)
    assert scene.state.release
    undeployed = scene.state.release.model_copy(update={"deployed": False})
    green = f"serving/default/green/{scene.model.name}/"

    def set_up() -> None:
        scene.set_up(canary=None, release=undeployed)
        for entry in scene.store.objects(green):
            scene.store.delete(entry.key)
        scene.store.put(f"{green}{OLDER}/model.onnx", b"of a version before")

    def take_over(point: Point) -> None:
        # Only what has gone further than the route can refuse a config: here it has been taken off the fleet again.
        (scene.restore if point.target.endswith("config.pbtxt") else held_at_weight_0)()

    set_up()
    points = points_of(work)
    kinds = {point.kind for point in points}
    assert kinds == {CHECK, "PutObject", "CopyObject", "DeleteObject", "load", "route"}
    # What S3 cannot refuse by itself is refused by the check before it.
    guards = {points[place - 1] for place, point in enumerate(points) if point.kind in ("CopyObject", "DeleteObject")}
    assert {point.kind for point in guards} == {CHECK}
    chosen = [point for point in points if point in guards or (point.is_write and point.kind != "load")]

    every_zombie_is_refused(scene, chosen, work, set_up, take_over)


def test_what_a_zombie_loads_is_what_the_newest_epoch_left_in_the_prefix(scene: Scene) -> None:
    """Here nothing: the restore that took over has taken the model off the fleet."""
    model = scene.model
    scene.set_up(canary=None, release=scene.state.release.model_copy(update={"deployed": False}))
    work = partial(deploy.run, scene.second, model.environment)

    with Clients(model) as clients:
        with stopped(work, Point("load", model.name, 0)) as zombie:
            scene.restore()
            ended = zombie.wake()
        after = guard.run(model.environment, [model.name])

    assert ended.error in ("LoadFailed", "Superseded"), ended.sentence
    assert scene.versions_on("green") == []
    assert loaded_on(scene, "green") == [[], []]
    assert after.problems == []
    assert clients.failed() == 0, clients.problems[:3]


def test_what_a_zombie_unloads_of_stable_is_healed_by_one_look_and_seen_by_no_client(scene: Scene) -> None:
    """Its canary was restored by another run, and has the traffic when the zombie's unload arrives."""
    model, second = scene.model, scene.second
    assert scene.state.release
    scene.set_up(canary=None, release=scene.state.release.model_copy(update={"deployed": False}))
    deploy.run(second, model.environment)
    work = partial(roll_back.run, second, model.environment, "it was aborted")

    with Clients(model) as clients:
        with stopped(work, Point("unload", model.name, 0)) as zombie:
            model.release(model.restore(SECOND))
            assert stable_versions(scene) == [[SECOND], [SECOND]]
            ended = zombie.wake()
        unloaded = stable_versions(scene)
        asked = clients.seen.total()
        await_true(lambda: clients.seen.total() > asked + 50, "clients ask while a replica has lost stable")
        healed = guard.run(model.environment, [model.name])

    assert (ended.error, unloaded) == ("Superseded", [[], [SECOND]]), "only the call it was paused before"
    assert [act["model"] for act in healed.healed] == [model.name]
    assert healed.problems == []
    assert stable_versions(scene) == [[SECOND], [SECOND]]
    assert clients.failed() == 0, clients.problems[:3]


def stable_versions(scene: Scene) -> list[list[int]]:
    stable = scene.model.state.stable
    assert stable
    return loaded_on(scene, stable.fleet)


def loaded_on(scene: Scene, name: str) -> list[list[int]]:
    """The versions that are READY on each replica of a fleet."""
    fleet = scene.model.environment.pair("default").fleet(name)
    return [fleets.loaded_versions(each, scene.model.name, scene.model.environment) for each in fleet.replicas]

"""Retention on a real S3: a killed prune is finished, what serves stays, and what was pruned never returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model_release.environment import S3, Environment
from model_release.errors import CanaryLive, ClaimHeld, VersionPruned
from model_release.identity import Kind, Release
from model_release.ledger.claim import take
from model_release.ledger.events import Events
from model_release.ledger.state import Placement, Promotion, State, StateFile
from model_release.repository.archive import Archive, Part
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.prune import Policy
from model_release.repository.store import ObjectStore
from model_release.spec_files import load_spec
from model_release.steps import plan, prune
from tests.sandbox.releasing import EXAMPLE
from tests.sandbox.s3_parts import seaweedfs
from tests.sandbox.stopping import points_of, stopped

MODEL = "digits"
#: Old ones that go, then those that stay for a reason each.
OLD, OLDER_STANDBY, STABLE, NEWEST = 20240101000000, 20240201000000, 20240301000000, 20240401000000
GOES = 20240115000000
PARTS: tuple[Part, ...] = ("base", "tuned")
POLICY = Policy(keep=1, keep_days=30)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as (place, _):
        yield place


@pytest.fixture
def world(s3: S3, request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    return laid_out(s3, f"w{abs(hash(request.node.name))}", tmp_path)


def environment_at(s3: S3, prefix: str) -> Environment:
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    return Environment.model_validate(
        {
            "s3": s3.model_copy(update={"prefix": prefix}),
            "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
            "router": {"directory": "/nonexistent", "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
            "lease_s": 60,
        }
    )


def laid_out(s3: S3, prefix: str, folder: Path) -> Environment:
    """Archive two versions that may go and three that serve, or served, or are the newest."""
    environment = environment_at(s3, prefix)
    store = ObjectStore(environment.s3)
    for version in (OLD, GOES, OLDER_STANDBY, STABLE, NEWEST):
        seal(store, version, folder, parts=("base", "tuned") if version == OLD else ("base",))
    store.put(f"archive/{MODEL}/{OLD}/signatures/base/x.sig.json", b"signature")
    store.put(f"serving/default/bench/{MODEL}/{STABLE}/model.onnx", b"onnx")

    def placed(state: State) -> State:
        at = store.now() - timedelta(days=400)
        promotions = [
            Promotion(version=version, digest="r", kind=Kind.BUILD, decision=version, at=at, run_id="r")
            for version in (OLD, OLDER_STANDBY, STABLE)
        ]
        return state.model_copy(
            update={
                "stable": Placement(fleet="blue", version=STABLE, digest="r"),
                "standby": Placement(fleet="green", version=OLDER_STANDBY, digest="r"),
                "promotions": promotions,
            }
        )

    StateFile(store, MODEL).change(placed)
    return environment


def seal(store: ObjectStore, version: int, folder: Path, parts: tuple[Part, ...] = ("base",)) -> None:
    archive, path = Archive(store, MODEL), folder / "file"
    for part in parts:
        path.write_bytes(f"{version} {part}".encode())
        files = {"model.onnx": archive.write(version, part, "model.onnx", path, lambda: None)}
        source = SourceEntry(uri=f"s3://training/{version}", sha256="a" * 64)
        manifest = Manifest(
            model=MODEL, version=version, part=part, contract=1, source=source, files=files, tools={}, summary={},
            spec_digest="d", release_digest="r", run_id="run-1",
            sealed_at=store.now() - timedelta(days=400), by="ada",
        )  # fmt: skip
        archive.seal(manifest, lambda: None)


def pruned(environment: Environment, *, dry_run: bool = False, policy: Policy = POLICY) -> prune.Pruning:
    return prune.run(MODEL, environment, policy, dry_run=dry_run, run_id="prune-1", by="ada")


def everything(environment: Environment) -> dict[str, bytes]:
    store = ObjectStore(environment.s3)
    return {entry.key: store.get(entry.key)[0] for entry in store.objects("")}


def kept(environment: Environment) -> dict[str, bytes]:
    stay = [f"archive/{MODEL}/{version}/" for version in (OLDER_STANDBY, STABLE, NEWEST)] + ["serving/"]
    return {key: body for key, body in everything(environment).items() if key.startswith(tuple(stay))}


def state_of(environment: Environment) -> State:
    return StateFile(ObjectStore(environment.s3), MODEL).read()


def expire_claim(environment: Environment) -> None:
    """Let the time of the claim pass, as the store counts it."""
    store = ObjectStore(environment.s3)

    def expired(state: State) -> State:
        claim = state.claim
        ended = claim.model_copy(update={"expires_at": store.now() - timedelta(seconds=1)}) if claim else None
        return state.model_copy(update={"claim": ended})

    StateFile(store, MODEL).change(expired)


def assert_finished(environment: Environment, before: dict[str, bytes]) -> None:
    store = ObjectStore(environment.s3)
    archive = Archive(store, MODEL)
    assert kept(environment) == before
    assert archive.versions() == [OLDER_STANDBY, STABLE, NEWEST]
    for version in (OLD, GOES):
        assert [entry.key for entry in store.objects(f"archive/{MODEL}/{version}/")] == [archive.marker_key(version)]
    events = [each["version"] for each in Events(store, MODEL).read() if each["what"] == "pruned"]
    assert sorted(events) == [OLD, GOES]
    begin_release(environment, Kind.BUILD, 20260101000000, "run-after")  # nobody holds the claim any more


def test_a_dry_run_says_what_would_go_and_touches_nothing(world: Environment) -> None:
    before = everything(world)

    told = pruned(world, dry_run=True)

    assert {each.version: each.why for each in told.versions if not each.goes} == {
        NEWEST: "of the newest 1 sealed versions",
        STABLE: "stable on blue",
        OLDER_STANDBY: "standby on green",
    }
    gone = (f"archive/{MODEL}/{OLD}/", f"archive/{MODEL}/{GOES}/")
    assert told.freed_bytes == sum(len(body) for key, body in before.items() if key.startswith(gone))
    assert everything(world) == before


def test_what_goes_leaves_a_marker_and_what_stays_is_the_same_to_the_byte(world: Environment) -> None:
    before, would = kept(world), pruned(world, dry_run=True)

    done = pruned(world)

    assert done.freed_bytes == would.freed_bytes > 0
    assert_finished(world, before)
    marker = Archive(ObjectStore(world.s3), MODEL).pruned(OLD)
    assert marker is not None
    assert (marker.by, marker.source.uri, marker.release_digest) == ("ada", f"s3://training/{OLD}", "r")
    revision = state_of(world).revision
    assert pruned(world).freed_bytes == 0
    assert state_of(world).revision == revision, "with nothing to do no claim is taken"


def test_killed_before_any_of_its_writes_it_is_finished_by_the_next(s3: S3, tmp_path: Path) -> None:
    def work(environment: Environment) -> Any:
        return partial(prune.run, MODEL, environment, POLICY, dry_run=False, run_id="prune-0", by="ada")

    whole = laid_out(s3, "kill-whole", tmp_path)
    points = [each for each in points_of(work(whole)) if each.is_write]
    assert sum(each.kind == "DeleteObject" for each in points) == 7
    for number, point in enumerate(points):
        environment = laid_out(s3, f"kill-{number}", tmp_path)
        before = kept(environment)
        here = replace(point, target=point.target.replace("kill-whole/", f"kill-{number}/"))
        with stopped(work(environment), here):
            pass  # killed there
        archive = Archive(ObjectStore(environment.s3), MODEL)
        for version in (OLD, GOES):
            if archive.sealed(version) is None:
                assert archive.pruned(version) is not None, f"{here}: it is gone and nobody says why"
                assert archive.sealed(version, "tuned") is None, f"{here}: the tuned part outlives the base"
            for part in PARTS:  # also for a reader that knows of no markers
                left = [entry.key for entry in ObjectStore(environment.s3).objects(archive.folder(version, part))]
                assert left != [archive.manifest_key(version, part)], f"{here}: a seal without files"
        expire_claim(environment)
        # A rule that would let nothing go finishes what was begun, and the first rule the rest.
        pruned(environment, policy=Policy(keep=9, keep_days=900))
        pruned(environment)
        assert_finished(environment, before)


def begin_release(environment: Environment, kind: Kind, version: int, run_id: str = "run-2") -> None:
    store = ObjectStore(environment.s3)
    take(StateFile(store, MODEL), store, Release(MODEL, version, kind, run_id), "plan", 60, begins=True)


def test_a_build_waits_for_a_prune_and_a_restore_ends_it_and_the_next_prune_goes_on(
    world: Environment, tmp_path: Path
) -> None:
    before = kept(world)
    work = partial(prune.run, MODEL, world, POLICY, dry_run=False, run_id="prune-0", by="ada")
    twin = laid_out(world.s3, f"{world.s3.prefix}twin", tmp_path)
    points = points_of(partial(prune.run, MODEL, twin, POLICY, dry_run=False, run_id="prune-0", by="ada"))
    seal_goes = next(each for each in points if each.kind == "DeleteObject" and "/base/manifest" in each.target)
    here = replace(seal_goes, target=seal_goes.target.replace(twin.s3.prefix, world.s3.prefix))

    with stopped(work, here) as zombie:
        with pytest.raises(ClaimHeld, match="prune-0#0"):
            begin_release(world, Kind.BUILD, 20260101000000)
        with pytest.raises(ClaimHeld, match="prune-0#0"):
            pruned(world)
        begin_release(world, Kind.RESTORE, OLDER_STANDBY)
        ended = zombie.wake()

    assert ended.error == "Superseded"
    assert state_of(world).claim is not None, "the claim is the restore's, and stays"
    with pytest.raises(ClaimHeld, match="run-2#0"):
        pruned(world)
    StateFile(ObjectStore(world.s3), MODEL).change(lambda state: state.model_copy(update={"claim": None}))
    pruned(world)
    assert_finished(world, before)


def test_a_prune_paused_before_its_decision_takes_nothing_from_the_restore_that_came(
    world: Environment, tmp_path: Path
) -> None:
    twin = laid_out(world.s3, f"{world.s3.prefix}twin", tmp_path)
    points = points_of(partial(prune.run, MODEL, twin, POLICY, dry_run=False, run_id="prune-0", by="ada"))
    writes = [each for each in points if each.is_write]
    decision = next(each for each in writes[1:] if each.target.endswith("state.json"))
    here = replace(decision, target=decision.target.replace(twin.s3.prefix, world.s3.prefix))

    work = partial(prune.run, MODEL, world, POLICY, dry_run=False, run_id="prune-0", by="ada")
    with stopped(work, here) as zombie:
        before = {key: body for key, body in everything(world).items() if key.startswith("archive/")}
        begin_release(world, Kind.RESTORE, OLD)
        ended = zombie.wake()

    assert ended.error == "Superseded"
    assert {key: body for key, body in everything(world).items() if key.startswith("archive/")} == before
    assert state_of(world).pruned == []


@pytest.mark.parametrize("kind", [Kind.BUILD, Kind.RESTORE])
def test_a_pruned_version_is_neither_restored_nor_built_again(world: Environment, kind: Kind) -> None:
    pruned(world)
    spec = load_spec(EXAMPLE).model_copy(update={"name": MODEL})

    with pytest.raises(VersionPruned, match=rf"version {OLD} of {MODEL} was pruned on \d{{4}}-\d\d-\d\d by ada"):
        plan.run(Release(MODEL, OLD, kind, "run-9", reason="back"), world, spec)


def test_the_archive_itself_takes_nothing_of_a_pruned_version(world: Environment, tmp_path: Path) -> None:
    store = ObjectStore(world.s3)
    pruned(world)

    for version in (OLD, GOES):
        with pytest.raises(VersionPruned, match=f"s3://training/{version}"):
            seal(store, version, tmp_path)
        with pytest.raises(VersionPruned):
            Archive(store, MODEL).require(version)


def test_a_live_canary_or_one_that_is_held_is_waited_for(world: Environment) -> None:
    file, store = StateFile(ObjectStore(world.s3), MODEL), ObjectStore(world.s3)
    before = kept(world)
    file.change(lambda state: state.model_copy(update={"canary": Placement(fleet="green", version=NEWEST, digest="r")}))
    with pytest.raises(CanaryLive, match=f"canary {NEWEST}"):
        pruned(world)
    file.change(lambda state: state.model_copy(update={"canary": None}))
    begin_release(world, Kind.BUILD, 20260101000000)
    expire_claim(world)
    with pytest.raises(ClaimHeld):
        pruned(world)  # between two of its tasks a release is silent
    assert state_of(world).superseded == []
    later = store.now() + timedelta(hours=1)

    def held(state: State) -> State:
        assert state.claim is not None
        past = store.now() - timedelta(days=1)
        return state.model_copy(
            update={"claim": state.claim.model_copy(update={"expires_at": past, "held_until": later})}
        )

    file.change(held)
    with pytest.raises(ClaimHeld):
        pruned(world)
    assert kept(world) == before


def test_what_lies_in_a_serving_prefix_stays_whatever_the_ledger_says(world: Environment) -> None:
    ObjectStore(world.s3).put(f"serving/other/green/{MODEL}/{OLD}/model.onnx", b"onnx")

    done = pruned(world)

    assert [each.version for each in done.versions if each.goes] == [GOES]
    why = next(each.why for each in done.versions if each.version == OLD)
    assert why == "its files lie in serving/other/green"
    assert OLD in Archive(ObjectStore(world.s3), MODEL).versions()


def test_what_nobody_finished_is_swept_after_a_day(world: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(world.s3)
    key = f"archive/{MODEL}/{NEWEST}/tuned/model.onnx"
    store._client.create_multipart_upload(**store._address(key))
    store.put("probe/abc/object", b"left")
    assert pruned(world).uploads == []
    assert prune.leftovers(world, dry_run=False) == ([], 0)

    monkeypatch.setattr(prune, "LEFTOVER_AFTER", timedelta(days=-1))
    assert pruned(world, dry_run=True).uploads == [key]
    assert pruned(world).uploads == [key]
    assert store.unfinished_uploads("archive/") == []
    assert prune.leftovers(world, dry_run=True) == (["probe/abc/object"], 4)
    assert store.exists("probe/abc/object")
    assert prune.leftovers(world, dry_run=False) == (["probe/abc/object"], 4)
    assert not store.exists("probe/abc/object")

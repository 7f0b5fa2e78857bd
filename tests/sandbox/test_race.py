"""Eight processes at one model on a real S3, for a few seconds; and the judge of the race finds what must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from model_release.environment import S3
from model_release.errors import VersionTaken
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.store import ConditionFailed, ObjectStore
from sandbox.show_race.__main__ import race, told
from sandbox.show_race.judge import holds, violations
from tests.sandbox.s3_parts import seaweedfs

VERSION = 20260101000000
Record = dict[str, Any]
#: An archive, and the same files as two writers have them.
Paused = tuple[Archive, dict[str, dict[str, Path]]]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as (found, _):
        yield found


def test_of_eight_processes_one_holds_the_model_at_any_time_and_nothing_sealed_changes(s3: S3) -> None:
    raced = race(s3, seconds=8, processes=8)

    assert raced.violations == []
    assert raced.count("take") >= 10
    assert raced.count("take", "ClaimHeld") > 0
    assert raced.sealed
    assert "violations       0" in told(raced, 8)
    assert ObjectStore(s3).objects("race/") == []


# What the race found: a writer that was paused after its check.


def manifest_of(
    archive: Archive, files: dict[str, Path], who: str, check: Callable[[], None] = lambda: None
) -> Manifest:
    """Write files and return the manifest that would seal them."""
    return Manifest(
        model="digits",
        version=VERSION,
        part="base",
        contract=1,
        source=SourceEntry(uri=f"s3://{who}", sha256=who[0] * 64),
        files={name: archive.write(VERSION, "base", name, path, check) for name, path in files.items()},
        tools={},
        summary={},
        spec_digest="d",
        release_digest="r",
        run_id=who,
        sealed_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
    )


def once(work: Callable[[], object]) -> Callable[[], None]:
    """Return a check during which another does its work, the first time."""
    left = [work]

    def check() -> None:
        if left:
            left.pop()()

    return check


@pytest.fixture(params=["whole", "in parts"])
def paused(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Paused:
    """An archive, and the same files as two writers have them."""
    store, size = ObjectStore(s3.model_copy(update={"prefix": f"paused/{tmp_path.name}"})), 10
    if request.param == "in parts":
        size, small = 6 * 2**20, 5 * 2**20
        store = store.transferring(TransferConfig(multipart_threshold=small, multipart_chunksize=small))
    files: dict[str, dict[str, Path]] = {}
    for who in ("ada", "bob"):
        files[who] = {name: tmp_path / f"{name} of {who}" for name in ("model.onnx", f"only {who}'s")}
        for path in files[who].values():
            path.write_bytes(who[:1].encode() * size)
    return Archive(store, "digits"), files


def assert_whole(archive: Archive, sealed: Manifest, files: dict[str, Path], folder: Path) -> None:
    """Everything that was sealed is as its writer had it, and nothing else lies there."""
    assert archive.require(VERSION) == sealed
    for name, path in files.items():
        assert archive.read_sealed(sealed, name, folder / "read").read_bytes() == path.read_bytes()
    there = {entry.key for entry in archive._store.objects(archive.folder(VERSION, "base"))}
    assert there == {archive.manifest_key(VERSION, "base"), *(archive.key_in(sealed, name) for name in files)}


def test_a_writer_that_wakes_up_after_another_has_sealed_changes_no_byte(paused: Paused, tmp_path: Path) -> None:
    archive, files = paused
    sealed: list[Manifest] = []

    def seal() -> None:
        sealed.append(archive.seal(manifest_of(archive, files["bob"], "bob"), lambda: None))

    with pytest.raises(VersionTaken):
        manifest_of(archive, files["ada"], "ada", once(seal))
    assert_whole(archive, sealed[0], files["bob"], tmp_path)


def test_who_seals_after_a_pause_seals_what_was_compared_whatever_another_wrote_meanwhile(
    paused: Paused, tmp_path: Path
) -> None:
    archive, files = paused
    others: list[Manifest] = []
    mine = manifest_of(archive, files["ada"], "ada")

    sealed = archive.seal(mine, once(lambda: others.append(manifest_of(archive, files["bob"], "bob"))))

    assert sealed == mine
    with pytest.raises(VersionTaken):
        archive.seal(others[0], lambda: None)
    assert_whole(archive, sealed, files["ada"], tmp_path)


def test_who_is_overtaken_while_sealing_finds_out_and_changes_nothing(paused: Paused, tmp_path: Path) -> None:
    archive, files = paused
    mine, others = (manifest_of(archive, files[who], who) for who in ("ada", "bob"))

    with pytest.raises(VersionTaken):
        archive.seal(mine, once(lambda: archive.seal(others, lambda: None)))
    assert_whole(archive, others, files["bob"], tmp_path)


def test_what_was_written_last_is_what_is_read_until_the_seal(s3: S3, tmp_path: Path) -> None:
    archive = Archive(ObjectStore(s3.model_copy(update={"prefix": "last"})), "digits")
    for body in (b"first", b"second", b"first", b"third", b"second"):  # within a second or two
        (tmp_path / "mine").write_bytes(body)
        archive.write(VERSION, "base", "parity.json", tmp_path / "mine", lambda: None)

        assert archive.read(VERSION, "base", "parity.json", tmp_path / "read").read_bytes() == body


def test_an_object_is_deleted_only_as_it_was_seen(s3: S3) -> None:
    store = ObjectStore(s3.model_copy(update={"prefix": "deleted"}))
    seen = store.put("key", b"epoch 1")
    store.put("key", b"epoch 2")

    with pytest.raises(ConditionFailed):
        store.delete("key", if_match=seen)
    store.delete("key", if_match=store.head("key").etag)
    assert not store.exists("key")


# The judge.


def record(op: str, process: int, epoch: int, began: float, ended: float, **facts: Any) -> Record:
    told = {"holder": f"run-{process}#0", "kind": "build", "begins": True} if op == "take" else {}
    told |= {"gives_back": False} if op == "change" else {}
    return (
        {"process": process, "op": op, "epoch": epoch, "began": began, "ended": ended, "outcome": "done"} | told | facts
    )


#: One process takes, changes twice and gives back; then another does.
SOUND = [
    record("take", 1, 1, 0.0, 0.1),
    record("change", 1, 1, 0.2, 0.3, count=1),
    record("change", 1, 1, 0.4, 0.5, count=2, gives_back=True),
    record("take", 2, 2, 0.45, 0.6),
    record("change", 2, 2, 0.7, 0.8, count=3),
]


def changed(place: int, **facts: Any) -> list[Record]:
    return [each | facts if number == place else each for number, each in enumerate(SOUND)]


def test_a_sound_race_has_no_violation() -> None:
    assert violations(SOUND, 3, 2) == []
    assert holds(SOUND) == [(0.1, 0.4, 1), (0.6, 0.7, 2)]


@pytest.mark.parametrize(
    ("records", "count", "epochs", "found"),
    [
        (changed(3, epoch=1), 3, 2, "epoch 1 was given to 2"),
        (changed(4, process=1), 3, 2, "process 1 wrote in epoch 2 of process 2"),
        (changed(2, began=0.9, ended=1.0), 3, 2, "epochs 1 and 2 were held at once"),
        (changed(4, count=2), 3, 2, "answered as done to two"),
        (SOUND, 2, 2, "3 changes were answered as done, the state counts 2"),
        (SOUND, 4, 2, "the state counts 4"),
        (SOUND, 3, 3, "[3] are nobody's"),
        (changed(1, count=4), 3, 2, "epoch 1 wrote after epoch 2"),
        (changed(2, gives_back=False), 3, 2, "a build, took the claim of run-1#0"),
        (
            [*SOUND, *(record("seal", n, 1, 0, 1, version=5, sealed_by=f"run-{n}") for n in (1, 2))],
            3,
            2,
            "version 5 was sealed by ['run-1', 'run-2']",
        ),
        (
            [*SOUND, record("read", 1, 1, 0, 1, outcome="BytesDiffer", sentence="the bytes changed")],
            3,
            2,
            "read wrongly: the bytes changed",
        ),
    ],
)
def test_the_judge_finds_it(records: list[Record], count: int, epochs: int, found: str) -> None:
    assert any(found in each for each in violations(records, count, epochs)), violations(records, count, epochs)


def test_a_restore_may_take_a_living_claim() -> None:
    records = [
        each | ({"kind": "restore"} if number == 3 else {}) for number, each in enumerate(changed(2, gives_back=False))
    ]
    assert violations(records, 3, 2) == []

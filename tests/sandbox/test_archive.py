"""The archive and the serving prefixes on a real S3: what is sealed never changes, and a changed byte is found."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from model_release.errors import BytesDiffer, Superseded, VersionNotFound, VersionTaken
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore

VERSION = 20260101000000


def unclaimed() -> None:
    """Stand for a claim that is never lost."""


def lost() -> None:
    raise Superseded("digits", 1, 2, "run-2#0")


def written(archive: Archive, folder: Path, files: dict[str, bytes], source: str = "a" * 64) -> Manifest:
    entries = {}
    for name, body in files.items():
        path = folder / "file"
        path.write_bytes(body)
        entries[name] = archive.write(VERSION, "base", name, path, unclaimed)
    return Manifest(
        model="digits",
        version=VERSION,
        part="base",
        contract=1,
        source=SourceEntry(uri="s3://training/x", sha256=source),
        files=entries,
        tools={},
        summary={},
        spec_digest="d",
        release_digest="r",
        run_id="run-1",
        sealed_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
    )


FILES = {"model.onnx": b"onnx", "warmup/image": b"1234", "config.pbtxt": b"name: 'digits'"}


def test_a_version_is_invisible_until_its_manifest_is_written(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = written(archive, tmp_path, FILES)
    assert archive.versions() == []

    archive.seal(manifest, unclaimed)

    assert archive.versions() == [VERSION]
    assert archive.sealed(VERSION) == manifest


def test_a_version_that_was_sealed_when_files_lay_under_their_names_still_serves(
    store: ObjectStore, tmp_path: Path
) -> None:
    archive = Archive(store, "digits")
    old = written(archive, tmp_path, FILES).model_copy(update={"schema_version": 1})
    for name, body in FILES.items():
        store.put(f"archive/digits/{VERSION}/base/{name}", body)
    archive.seal(old, unclaimed)

    ServingPrefix(store, "default", "blue", "digits").place(archive, archive.require(VERSION), unclaimed)

    assert store.get(f"serving/default/blue/digits/{VERSION}/model.onnx")[0] == b"onnx"
    assert archive.read(VERSION, "base", "config.pbtxt", tmp_path / "c").read_bytes() == FILES["config.pbtxt"]
    there = [entry.key.removeprefix(f"archive/digits/{VERSION}/base/") for entry in store.objects("archive/digits/")]
    assert there == sorted([*FILES, "manifest.json"])


def test_an_unknown_version_is_answered_with_what_there_is(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    archive.seal(written(archive, tmp_path, FILES), unclaimed)

    with pytest.raises(VersionNotFound, match=f"Sealed versions: {VERSION}"):
        archive.require(7)


def test_a_half_written_version_is_finished_by_the_next_try(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    left = written(archive, tmp_path, {"model.onnx": b"half", "leftover": b"x"})

    archive.seal(written(archive, tmp_path, FILES), unclaimed)

    assert archive.read_sealed(archive.require(VERSION), "model.onnx", tmp_path / "m").read_bytes() == b"onnx"
    assert not any(store.exists(archive.key_in(left, name)) for name in left.files)


def test_what_is_sealed_is_not_written_again(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    archive.seal(written(archive, tmp_path, FILES), unclaimed)

    with pytest.raises(VersionTaken):
        written(archive, tmp_path, {"model.onnx": b"other"})
    archive.read_sealed(archive.require(VERSION), "model.onnx", tmp_path / "m")


def test_a_try_that_lost_its_claim_replaces_nothing(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    written(archive, tmp_path, {"model.onnx": b"first"})
    other = tmp_path / "other"
    other.write_bytes(b"other")

    with pytest.raises(Superseded):
        archive.write(VERSION, "base", "model.onnx", other, lost)
    assert archive.read(VERSION, "base", "model.onnx", tmp_path / "m").read_bytes() == b"first"


def test_of_two_that_seal_at_once_one_wins_and_the_other_finds_out(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = written(archive, tmp_path, FILES)
    others = [manifest.model_copy(update={"source": SourceEntry(uri="u", sha256=str(n) * 64)}) for n in range(6)]
    outcomes: list[str] = []
    barrier = threading.Barrier(len(others))

    def seal(mine: Manifest) -> None:
        barrier.wait()
        try:
            archive.seal(mine, unclaimed)
        except VersionTaken:
            outcomes.append("taken")
        else:
            outcomes.append("sealed")

    threads = [threading.Thread(target=seal, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["sealed", *["taken"] * 5]


def test_a_changed_byte_in_the_archive_is_found_before_it_serves(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = archive.seal(written(archive, tmp_path, FILES), unclaimed)
    store.put(archive.key_in(manifest, "model.onnx"), b"0nnx")

    with pytest.raises(BytesDiffer, match=r"model\.onnx"):
        ServingPrefix(store, "default", "blue", "digits").place(archive, manifest, unclaimed)
    with pytest.raises(BytesDiffer, match="sha256"):
        archive.read_sealed(manifest, "model.onnx", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_missing_file_is_found_before_the_version_is_sealed(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = written(archive, tmp_path, FILES)
    store.delete(archive.key_in(manifest, "model.onnx"))

    with pytest.raises(BytesDiffer, match="nothing"):
        archive.seal(manifest, unclaimed)
    assert archive.versions() == []


def test_a_serving_prefix_holds_the_model_and_nothing_but_what_triton_reads(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = archive.seal(written(archive, tmp_path, {**FILES, "parity.json": b"{}"}), unclaimed)
    prefix = ServingPrefix(store, "default", "blue", "digits")

    prefix.place(archive, manifest, unclaimed)
    assert prefix.config() is None
    prefix.write_config("# epoch=3", unclaimed)

    root = "serving/default/blue/digits/"
    assert [entry.key for entry in store.objects("serving/")] == [
        f"{root}{VERSION}/model.onnx",
        f"{root}config.pbtxt",
        f"{root}warmup/image",
    ]


def test_each_config_gets_a_second_of_its_own(store: ObjectStore) -> None:
    """Triton takes two writes within one second of LastModified for one, and would not load the second."""
    prefix = ServingPrefix(store, "default", "blue", "digits")
    seen = []
    for number in range(3):
        prefix.write_config(f"# epoch={number}", unclaimed)
        seen.append(store.head("serving/default/blue/digits/config.pbtxt").last_modified)

    assert seen == sorted(set(seen))


def test_a_config_can_be_made_newer_than_what_a_triton_was_told_by_hand(store: ObjectStore) -> None:
    """After an override Triton reads nothing that is older than that, and an object's time has whole seconds."""
    prefix, told_at = ServingPrefix(store, "default", "blue", "digits"), store.now()
    prefix.write_config("# epoch=1", unclaimed, after=told_at)
    assert store.head("serving/default/blue/digits/config.pbtxt").last_modified > told_at


def test_nothing_is_written_to_a_prefix_after_the_claim_is_lost(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = archive.seal(written(archive, tmp_path, FILES), unclaimed)
    prefix = ServingPrefix(store, "default", "blue", "digits")
    prefix.write_config("# epoch=1", unclaimed)

    for write in (
        lambda: prefix.place(archive, manifest, lost),
        lambda: prefix.write_config("# epoch=0", lost),
        lambda: prefix.delete(lost),
    ):
        with pytest.raises(Superseded):
            write()
    assert [entry.key for entry in store.objects("serving/")] == ["serving/default/blue/digits/config.pbtxt"]
    assert prefix.config() == "# epoch=1"

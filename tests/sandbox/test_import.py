"""A version that was sealed elsewhere is here byte for byte, or not at all; and it serves by a restore."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.environment import S3, Environment, Signing
from model_release.errors import (
    BytesDiffer,
    CanaryLive,
    ClaimHeld,
    DigestDiffers,
    SignatureInvalid,
    SignatureMissing,
    SignerMissing,
    Superseded,
    VersionNotFound,
    VersionTaken,
)
from model_release.identity import Kind, Release
from model_release.ledger.claim import take
from model_release.ledger.events import Events
from model_release.ledger.state import Placement, StateFile
from model_release.repository.archive import PARTS, Archive
from model_release.repository.manifest import Manifest, digest_of
from model_release.repository.signatures import Signatures
from model_release.repository.store import ObjectStore
from model_release.repository.transfer import Transfer
from model_release.steps import benchmark, export, import_version, plan, publish, validate
from model_release.steps.context import Step, freeze_spec, read_frozen_spec
from tests.sandbox.forking import forked
from tests.sandbox.releasing import EXAMPLE, FIRST, Clients, Model, environment_file, moved, quick_spec
from tests.sandbox.s3_parts import seaweedfs
from tests.sandbox.test_archive import FILES, VERSION, unclaimed, written
from tests.sandbox.test_signing import with_the_same_crc
from tests.unit.keys import Pair, key_pair

MODEL = "digits"
HISTORY = ("published", "benchmarked", "promoted")


@dataclass(frozen=True)
class Places:
    """Where a version was sealed, and where it shall be."""

    source: Environment
    target: Environment
    digest: str

    @property
    def there(self) -> ObjectStore:
        return ObjectStore(self.source.s3)

    @property
    def here(self) -> ObjectStore:
        return ObjectStore(self.target.s3)

    def bring(self, **changes: Any) -> dict[str, Any]:
        asked = {"digest": self.digest, "source": self.source, "environment": self.target, "run_id": "import-1"}
        return import_version.run(MODEL, VERSION, **{**asked, "by": "tests", **changes})

    def is_sealed(self) -> bool:
        return Archive(self.here, MODEL).sealed(VERSION) is not None

    def imports(self) -> list[dict[str, Any]]:
        return [event for event in Events(self.here, MODEL).read() if event["what"] == "imported"]


def bytes_under(store: ObjectStore, prefix: str) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key)[0] for entry in store.objects(prefix)}


def written_since(store: ObjectStore, before: list[str]) -> list[str]:
    """What was written but for the state, which the claim changes."""
    return [line for line in listed(store) if line not in before and "state.json" not in line]


def listed(store: ObjectStore) -> list[str]:
    return [f"{entry.key} {entry.etag} {entry.last_modified}" for entry in store.objects("")]


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 of another place, with keys of its own."""
    with seaweedfs(tmp_path_factory.mktemp("elsewhere")) as (s3, _):
        yield s3


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return key_pair(tmp_path, "staging")


@pytest.fixture(params=["one server", "two servers"])
def places(request: pytest.FixtureRequest, environment: Environment, pair: Pair, tmp_path: Path) -> Places:
    """A version of two signed parts, with a spec and a history, in one place; and another place."""
    prefix = f"tests/{tmp_path.name}"
    source_s3 = environment.s3.model_copy(update={"prefix": f"{prefix}/staging"})
    if request.param == "two servers":
        source_s3 = request.getfixturevalue("other_server").model_copy(update={"prefix": f"{prefix}/staging"})
    signing = Signing(private_key=pair.private, trusted=[pair.public], require=True)
    source = environment.model_copy(update={"s3": source_s3, "signing": signing})
    target_s3 = environment.s3.model_copy(update={"prefix": f"{prefix}/production"})
    trusting = Signing(trusted=[pair.public], require=True)
    target = environment.model_copy(update={"s3": target_s3, "signing": trusting})
    return Places(source, target, seal(source, tmp_path))


def seal(source: Environment, folder: Path) -> str:
    """Seal the version there; returns its digest."""
    store = ObjectStore(source.s3)
    archive, signatures = Archive(store, MODEL), Signatures(store, MODEL, source.signing)
    frozen = freeze_spec(store, quick_spec(MODEL), unclaimed)
    base = written(archive, folder, FILES).model_copy(update={"spec_digest": frozen, "by": "somebody"})
    config = folder / "config"
    config.write_bytes(b"tuned")
    tuned = {"config.pbtxt": archive.write(VERSION, "tuned", "config.pbtxt", config, unclaimed)}
    summary = {"benchmark": {"p99_ms": 7}}
    for manifest in (base, base.model_copy(update={"part": "tuned", "files": tuned, "summary": summary})):
        signatures.sign(manifest, unclaimed)
        archive.seal(manifest, unclaimed)
    for number, what in enumerate(HISTORY):
        Events(store, MODEL).append(number, what, store.now(), {"version": VERSION, "by": "somebody"})
    Events(store, MODEL).append(9, "published", store.now(), {"version": VERSION + 1})
    return digest_in(store)


def digest_in(store: ObjectStore, model: str = MODEL, version: int = VERSION) -> str:
    sealed = {part: Archive(store, model).seal_of(version, part) for part in PARTS}
    return digest_of({part: found[0] for part, found in sealed.items() if found})


def test_a_version_is_brought_byte_for_byte_with_signatures_spec_and_history(places: Places) -> None:
    done = places.bring()

    assert done["brought"] == ["base", "tuned"]
    apart = places.source.s3.endpoint_url != places.target.s3.endpoint_url
    assert done["way"] == ("streamed through this machine" if apart else "copied on the server")
    assert bytes_under(places.here, "archive/") == bytes_under(places.there, "archive/")
    base = Archive(places.here, MODEL).require(VERSION)
    Signatures(places.here, MODEL, places.target.signing).require(base)
    assert read_frozen_spec(places.here, MODEL, base.spec_digest) == quick_spec(MODEL)
    [event] = places.imports()
    assert [told["what"] for told in event["history"]] == list(HISTORY)
    assert (event["sealed_by"], event["digest"], event["by"]) == ("somebody", places.digest, "tests")
    assert event["summary"]["tuned"] == {"benchmark": {"p99_ms": 7}}
    assert places.source.s3.prefix in event["origin"]
    assert StateFile(places.here, MODEL).read().claim is None


def test_a_second_import_writes_nothing(places: Places) -> None:
    places.bring()
    before = listed(places.here)

    assert places.bring(run_id="import-2")["brought"] == []
    assert written_since(places.here, before) == []


def test_another_digest_is_refused_before_anything_is_written(places: Places) -> None:
    with pytest.raises(DigestDiffers, match=f"is {places.digest}, not {'0' * 64}"):
        places.bring(digest="0" * 64)
    assert listed(places.here) == []


def test_a_tuned_config_that_was_sealed_anew_there_is_refused(places: Places) -> None:
    """As whoever can write to the bucket can do; without signatures the digest alone tells."""
    key = f"archive/{MODEL}/{VERSION}/tuned/manifest.json"
    places.there.put(key, places.there.get(key)[0].replace(b'"somebody"', b'"another"'))
    unasked = places.target.model_copy(update={"signing": Signing()})

    with pytest.raises(DigestDiffers, match=f"not {places.digest}"):
        places.bring(environment=unasked)
    assert listed(places.here) == []


def test_a_version_that_is_not_sealed_there_is_not_found(places: Places) -> None:
    places.there.delete(f"archive/{MODEL}/{VERSION}/base/manifest.json")

    with pytest.raises(VersionNotFound):
        places.bring()


@pytest.mark.parametrize("part", ["base", "tuned"])
def test_a_version_of_that_number_from_another_source_stays(places: Places, tmp_path: Path, part: str) -> None:
    archive = Archive(places.here, MODEL)
    own = written(archive, tmp_path, {"model.onnx": b"own", "config.pbtxt": b"own"}, source="b" * 64)
    if part == "tuned":
        for name in own.files:
            places.here.copy(archive.key_in(own, name), archive.key_in(own.model_copy(update={"part": part}), name))
    archive.seal(own.model_copy(update={"part": part}), unclaimed)
    before = bytes_under(places.here, f"archive/{MODEL}/{VERSION}/{part}/")

    with pytest.raises(VersionTaken, match=f"sealed from source {'b' * 64}"):
        places.bring()
    assert bytes_under(places.here, f"archive/{MODEL}/{VERSION}/{part}/") == before
    assert places.imports() == []
    assert StateFile(places.here, MODEL).read().claim is None


def config_key(places: Places) -> str:
    """Return the key of the config, which is the same here as there."""
    archive = Archive(places.there, MODEL)
    return archive.key_in(archive.require(VERSION), "config.pbtxt")


def test_a_file_that_changed_there_is_not_sealed_here(places: Places) -> None:
    key = config_key(places)
    places.there.put(key, with_the_same_crc(FILES["config.pbtxt"]))

    with pytest.raises(BytesDiffer, match=r"config\.pbtxt changed: got sha256"):
        places.bring()
    assert not places.is_sealed()


def test_what_lies_here_already_is_believed_by_its_sha256_alone(places: Places) -> None:
    key = config_key(places)
    places.here.put(key, with_the_same_crc(FILES["config.pbtxt"]))

    with pytest.raises(BytesDiffer, match=r"config\.pbtxt changed: got sha256"):
        places.bring()
    assert not places.is_sealed()
    places.here.put(key, b"half of it")
    assert places.bring(run_id="import-2")["brought"] == ["base", "tuned"]


def test_a_manifest_that_lists_itself_is_refused(places: Places) -> None:
    archive = Archive(places.there, MODEL)
    base = archive.require(VERSION)
    lists: dict[str, Any] = {"files": {**base.files, "manifest.json": base.files["model.onnx"]}}
    body = Manifest.model_dump_json(base.model_copy(update=lists)).encode()
    places.there.put(archive.manifest_key(VERSION, "base"), body)
    unasked = places.target.model_copy(update={"signing": Signing()})

    with pytest.raises(BytesDiffer, match=r"lists 'manifest\.json'"):
        places.bring(digest=digest_in(places.there), environment=unasked)
    assert not places.is_sealed()


def test_what_no_signer_pinned_here_signed_is_refused_before_anything_is_written(
    places: Places, tmp_path: Path
) -> None:
    pinned = Signing(trusted=[key_pair(tmp_path, "production").public], require=True)
    with pytest.raises(SignatureInvalid, match="which is not pinned"):
        places.bring(environment=places.target.model_copy(update={"signing": pinned}))
    for entry in places.there.objects(f"archive/{MODEL}/{VERSION}/signatures/tuned/"):
        places.there.delete(entry.key)
    with pytest.raises(SignatureMissing):
        places.bring()
    assert listed(places.here) == []


def test_an_import_waits_for_a_release_and_gives_way_to_a_restore(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(places.here, MODEL)
    take(file, places.here, Release(MODEL, 7, Kind.BUILD, "run-1"), "watch", 120, begins=True)
    with pytest.raises(ClaimHeld, match="released by run-1"):
        places.bring()

    def ended(state: Any) -> Any:
        later = state.claim.model_copy(update={"expires_at": places.here.now() - timedelta(seconds=130)})
        return state.model_copy(update={"claim": later})

    file.change(ended)  # silent, and perhaps only between two tasks
    with pytest.raises(ClaimHeld):
        places.bring()
    canary = Placement(fleet="green", version=7, digest="0" * 64)  # with traffic, and nobody but the guard for it
    file.change(lambda state: state.model_copy(update={"claim": None, "canary": canary}))
    with pytest.raises(CanaryLive, match="nothing brought to it"):
        places.bring()
    assert file.read().claim is None
    file.change(lambda state: state.model_copy(update={"canary": None}))
    signatures = Transfer._bring_signatures

    def restored_meanwhile(self: Transfer, *given: Any) -> None:
        signatures(self, *given)
        take(file, places.here, Release(MODEL, 7, Kind.RESTORE, "restore-1"), "plan", 120, begins=True)

    monkeypatch.setattr(Transfer, "_bring_signatures", restored_meanwhile)
    with pytest.raises(Superseded):
        places.bring()
    assert not places.is_sealed()
    assert file.read().claim.run_id == "restore-1"  # type: ignore[union-attr]


def die_at(number: int, places: Places, pipe: Connection) -> None:
    """Import, and be killed just before a write: the `number`-th."""
    seen, check = [0], Step.check

    def killed(step: Step) -> None:
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        check(step)

    Step.check = killed  # type: ignore[method-assign]
    places.bring(run_id=f"import-{number}")
    pipe.send("done")


@pytest.mark.parametrize("places", ["one server"], indirect=True)
def test_the_commands_go_from_there_to_here(places: Places, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{MODEL}.yaml").write_text(EXAMPLE.read_text().replace(EXAMPLE.stem, MODEL))
    there = environment_file(tmp_path / "staging.yaml", places.source)
    here = environment_file(tmp_path / "production.yaml", places.target)

    def run(environment: Path, *command: str) -> Any:
        options = ["--json", "--configs", str(tmp_path / "configs"), "--environment", str(environment)]
        done = CliRunner().invoke(app, [*options, *command])
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout)

    digest = run(there, "verify", MODEL, str(VERSION))["digest"]
    assert digest == places.digest
    brought = run(here, "import", MODEL, str(VERSION), "--from", str(there), "--digest", digest)
    assert brought["brought"] == ["base", "tuned"]
    assert run(here, "verify", MODEL, str(VERSION))["digest"] == digest
    assert [event["what"] for event in run(here, "history", MODEL)] == ["imported"]
    with pytest.raises(SignerMissing):
        run(here, "sign", MODEL, str(VERSION))
    assert len(run(there, "sign", MODEL, str(VERSION))["signatures"]) == 2


@pytest.mark.parametrize("places", ["two servers"], indirect=True)
def test_an_import_that_is_killed_before_any_write_is_finished_by_the_next(places: Places) -> None:
    file, deaths, number = StateFile(places.here, MODEL), 0, 1
    while True:
        with forked(die_at, number, places) as (process, pipe):
            try:
                assert pipe.poll(60)
                assert pipe.recv() == "done"
                break
            except EOFError:
                process.join(10)
                assert process.exitcode == -signal.SIGKILL
        deaths += 1
        for part in ("base", "tuned"):
            archive = Archive(places.here, MODEL)
            sealed = archive.sealed(VERSION, part)
            for key in [archive.key_in(sealed, name) for name in sealed.files] if sealed else ():
                assert places.here.get(key) == places.there.get(key)
        if number == 2:
            with pytest.raises(ClaimHeld, match="in import"):
                places.bring()
        file.change(lambda state: state.model_copy(update={"claim": None}))  # as if its lease were over
        number += 1

    assert deaths >= 3
    assert bytes_under(places.here, "archive/") == bytes_under(places.there, "archive/")
    assert len(places.imports()) == 1


def test_a_version_that_was_built_elsewhere_serves_by_a_restore(model: Model, pair: Pair) -> None:
    """Built, and proved on bench, in one place; its ledger and archive are then another's."""
    signing = Signing(private_key=pair.private, trusted=[pair.public], require=True)
    built = replace(model, environment=model.environment.model_copy(update={"signing": signing}))
    asked = built.build(FIRST)
    plan.run(asked, built.environment, built.spec)
    for step in (export, validate, publish, benchmark):
        step.run(asked, built.environment)
    store = ObjectStore(built.environment.s3)
    staging_s3 = built.environment.s3.model_copy(update={"prefix": f"tests/staging-{model.name}"})
    staging = ObjectStore(staging_s3)
    moved(store, staging, [f"archive/{model.name}/", f"ledger/{model.name}/"])
    digest = digest_in(staging, model.name, FIRST)
    source = built.environment.model_copy(update={"s3": staging_s3})
    here = replace(
        built,
        environment=built.environment.model_copy(update={"signing": Signing(trusted=[pair.public], require=True)}),
    )

    with pytest.raises(VersionNotFound):
        here.release(here.restore(FIRST))
    import_version.run(model.name, FIRST, digest, source, here.environment, run_id="import-1")
    with Clients(here) as clients:
        restored = here.release(replace(here.restore(FIRST), run_id="restore-2"))

    assert restored["stable"] == FIRST
    assert "benchmark" not in here.steps()
    assert clients.by_version() == {str(FIRST): clients.by_version()[str(FIRST)]}

"""Signed versions on the real S3 and Tritons: what a pinned signer did not sign reaches no fleet."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from model_release.environment import Environment, Signing
from model_release.errors import (
    BytesDiffer,
    ReleaseError,
    SignatureInvalid,
    SignatureMissing,
    SigningKeyUnusable,
    VersionTaken,
)
from model_release.ledger.events import Events
from model_release.ledger.state import StateFile
from model_release.repository import manifest as manifests
from model_release.repository.archive import Archive, Part
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.signatures import Signatures
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, deploy, export, plan, publish, sign, validate
from model_release.steps.story import Told, run
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model
from tests.sandbox.test_archive import FILES, VERSION, unclaimed, written
from tests.unit.keys import Pair, key_pair

OTHER = VERSION + 1


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return key_pair(tmp_path, "signer")


@pytest.fixture
def signing(pair: Pair) -> Signing:
    return Signing(private_key=pair.private, trusted=[pair.public], require=True)


@pytest.fixture
def sealed(store: ObjectStore, signing: Signing, tmp_path: Path) -> Archive:
    """An archive with two parts of one version, and the first of another, all signed."""
    archive = Archive(store, "digits")
    base = written(archive, tmp_path, FILES)
    config = tmp_path / "config"
    config.write_bytes(b"tuned")
    tuned = {"config.pbtxt": archive.write(VERSION, "tuned", "config.pbtxt", config, unclaimed)}
    for manifest in (base, base.model_copy(update={"part": "tuned", "files": tuned})):
        Signatures(store, "digits", signing).sign(manifest, unclaimed)
        archive.seal(manifest, unclaimed)
    other = base.model_copy(update={"version": OTHER})
    for name in base.files:
        store.copy(archive.key_in(base, name), archive.key_in(other, name))
    Signatures(store, "digits", signing).sign(other, unclaimed)
    archive.seal(other, unclaimed)
    return archive


def signatures_of(store: ObjectStore, version: int = VERSION, part: Part = "base") -> list[str]:
    return [entry.key for entry in store.objects(Signatures(store, "digits", Signing()).folder(version, part))]


def with_the_same_crc(body: bytes) -> bytes:
    """Change a body so that its CRC64NVME stays: by the generator polynomial, x^64 and what follows, low bit first."""
    changed = bytearray(body)
    for place, bit in enumerate("1" + f"{0xAD93D23594C93659:064b}"):
        changed[place // 8] ^= int(bit) << place % 8
    return bytes(changed)


def test_a_downloaded_part_is_verified_by_the_packages_own_command(
    store: ObjectStore, sealed: Archive, pair: Pair, tmp_path: Path
) -> None:
    for part in ("base", "tuned"):
        root, base, signature = sealed.folder(VERSION, part), tmp_path / part, tmp_path / f"{part}.sig.json"
        for entry in store.objects(root):
            (base / entry.key.removeprefix(root)).parent.mkdir(parents=True, exist_ok=True)
            store.download(entry.key, base / entry.key.removeprefix(root))
        folder = tmp_path / f"model of {part}"
        # As docs/signing.md says it.
        subprocess.run(
            f"mkdir '{folder}' && cp -r {part}/manifest.json {part}/*/. '{folder}/'",
            shell=True,
            check=True,
            cwd=tmp_path,
        )
        [key] = signatures_of(store, part=part)
        store.download(key, signature)
        assert sha256((folder / "manifest.json").read_bytes()).hexdigest() in key
        command = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", str(signature)]
        command += ["--public_key", str(pair.public), str(folder)]

        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "Verification succeeded\n")
        (folder / "config.pbtxt").write_bytes(b"name: 'Digits'")
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1


def test_what_is_signed_as_it_lies_there_is_believed(store: ObjectStore, sealed: Archive, signing: Signing) -> None:
    Signatures(store, "digits", signing).require(sealed.require(VERSION))
    Signatures(store, "digits", signing).require(sealed.require(OTHER))


def changed_file(store: ObjectStore, archive: Archive, _: Pair) -> None:
    store.put(archive.key_in(archive.require(VERSION), "model.onnx"), b"0nnx")


def changed_file_of_the_same_crc(store: ObjectStore, archive: Archive, _: Pair) -> None:
    base = archive.require(VERSION)
    key = archive.key_in(base, "config.pbtxt")
    store.put(key, with_the_same_crc(FILES["config.pbtxt"]))
    archive.compare(key, base.files["config.pbtxt"])  # S3's own sum shows nothing


def missing_file(store: ObjectStore, archive: Archive, _: Pair) -> None:
    tuned = archive.sealed(VERSION, "tuned")
    assert tuned is not None
    store.delete(archive.key_in(tuned, "config.pbtxt"))


def changed_manifest(store: ObjectStore, archive: Archive, _: Pair) -> None:
    changed = archive.require(VERSION).model_copy(update={"summary": {"parity": "held"}})
    store.put(archive.manifest_key(VERSION, "base"), manifests.body_of(changed))


def resealed(store: ObjectStore, archive: Archive) -> bytes:
    """Write another file and a manifest that fits it, as who can write to S3 would; returns the manifest."""
    base = archive.require(VERSION)
    store.put(archive.key_in(base, "model.onnx"), b"0nnx")
    crc64nvme = str(store.head(archive.key_in(base, "model.onnx")).crc64nvme)
    entry = manifests.FileEntry(sha256=sha256(b"0nnx").hexdigest(), crc64nvme=crc64nvme, size_bytes=4)
    store.put(archive.key(VERSION, "base", "model.onnx", entry), b"0nnx")
    body = manifests.body_of(base.model_copy(update={"files": {**base.files, "model.onnx": entry}}))
    store.put(archive.manifest_key(VERSION, "base"), body)
    return body


def changed_file_and_manifest(store: ObjectStore, archive: Archive, _: Pair) -> None:
    resealed(store, archive)


def the_signature_of_before_under_the_new_name(store: ObjectStore, archive: Archive, _: Pair) -> None:
    body, [old] = resealed(store, archive), signatures_of(store)
    store.copy(old, old.replace(Path(old).name.split(".")[0], sha256(body).hexdigest()))


def signed_by_another(store: ObjectStore, archive: Archive, other: Pair) -> None:
    resealed(store, archive)
    Signatures(store, "digits", Signing(private_key=other.private)).sign_sealed(VERSION)


def no_signature(store: ObjectStore, _: Archive, __: Pair) -> None:
    for key in signatures_of(store, part="tuned"):
        store.delete(key)


@pytest.mark.parametrize(
    ("tamper", "error", "said"),
    [
        (changed_file, BytesDiffer, "sha256"),
        (changed_file_of_the_same_crc, BytesDiffer, "sha256"),
        (missing_file, BytesDiffer, "nothing"),
        (changed_manifest, SignatureInvalid, "another manifest than was signed"),
        (changed_file_and_manifest, SignatureInvalid, "another manifest than was signed"),
        (the_signature_of_before_under_the_new_name, SignatureInvalid, "other bytes of"),
        (signed_by_another, SignatureInvalid, "which is not pinned"),
        (no_signature, SignatureMissing, f"model-release sign digits {VERSION}"),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused(
    store: ObjectStore,
    sealed: Archive,
    signing: Signing,
    tmp_path: Path,
    tamper: Callable[[ObjectStore, Archive, Pair], None],
    error: type[ReleaseError],
    said: str,
) -> None:
    tamper(store, sealed, key_pair(tmp_path, "other"))

    with pytest.raises(error, match=said):
        Signatures(store, "digits", signing).require(sealed.require(VERSION))
    Signatures(store, "digits", Signing()).require(sealed.require(VERSION))  # where nobody asks, nothing is read


def test_all_of_another_signed_version_in_place_of_one_is_refused(store: ObjectStore, sealed: Archive) -> None:
    for folder in (sealed.folder(OTHER, "base"), *signatures_of(store, OTHER)):
        for entry in store.objects(folder):
            store.copy(entry.key, entry.key.replace(str(OTHER), str(VERSION)))

    with pytest.raises(BytesDiffer, match=f"got the manifest of digits version {OTHER}"):
        sealed.require(VERSION)


def test_a_part_of_another_base_is_refused(store: ObjectStore, sealed: Archive, signing: Signing) -> None:
    """Both are signed: the one of the loser of a race was, too."""
    tuned = sealed.sealed(VERSION, "tuned")
    assert tuned is not None
    other = tuned.model_copy(update={"source": SourceEntry(uri="u", sha256="c" * 64)})
    Signatures(store, "digits", signing).sign(other, unclaimed)
    store.put(sealed.manifest_key(VERSION, "tuned"), manifests.body_of(other))

    with pytest.raises(SignatureInvalid, match="it is of source cccc"):
        Signatures(store, "digits", signing).require(sealed.require(VERSION))


def test_of_two_that_seal_at_once_the_winner_is_signed(store: ObjectStore, signing: Signing, tmp_path: Path) -> None:
    archive = Archive(store, "digits")
    manifest = written(archive, tmp_path, FILES)
    others = [manifest.model_copy(update={"source": SourceEntry(uri="u", sha256=str(n) * 64)}) for n in range(4)]
    barrier = threading.Barrier(len(others))

    def seal(mine: Manifest) -> None:
        Signatures(store, "digits", signing).sign(mine, unclaimed)
        barrier.wait()
        with suppress(VersionTaken):
            archive.seal(mine, unclaimed)

    threads = [threading.Thread(target=seal, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    Signatures(store, "digits", signing).require(archive.require(VERSION))
    assert len(signatures_of(store)) == len(others)


def test_a_signer_takes_over_from_another(
    store: ObjectStore, sealed: Archive, pair: Pair, signing: Signing, tmp_path: Path
) -> None:
    new = key_pair(tmp_path, "new")
    later = Signing(private_key=new.private, trusted=[new.public], require=True)
    base = sealed.require(VERSION)

    Signatures(store, "digits", Signing(trusted=[pair.public, new.public], require=True)).require(base)
    with pytest.raises(SignatureInvalid):
        Signatures(store, "digits", later).require(base)
    Signatures(store, "digits", later).sign_sealed(VERSION)

    Signatures(store, "digits", later).require(base)
    Signatures(store, "digits", signing).require(base)


def test_nobody_signs_what_changed_since_it_was_sealed(store: ObjectStore, sealed: Archive, tmp_path: Path) -> None:
    new = key_pair(tmp_path, "new")
    before = signatures_of(store)
    store.put(sealed.key_in(sealed.require(VERSION), "model.onnx"), b"0nnx")

    with pytest.raises(BytesDiffer):
        Signatures(store, "digits", Signing(private_key=new.private)).sign_sealed(VERSION)
    assert signatures_of(store) == before


# --- through the Tritons -------------------------------------------------------------------------


@pytest.fixture
def strict(model: Model, signing: Signing) -> Model:
    """The model where signatures are made and required."""
    return replace(model, environment=model.environment.model_copy(update={"signing": signing}))


def fleets_of(environment: Environment, name: str) -> list[str]:
    """What lies in the serving prefixes of a model."""
    keys = [entry.key for entry in ObjectStore(environment.s3).objects("serving/")]
    return [key for key in keys if f"/{name}/" in key]


def test_an_unsigned_version_is_released_only_after_somebody_signs_it(model: Model, strict: Model) -> None:
    store = ObjectStore(strict.environment.s3)
    sealed = model.build(FIRST)
    plan.run(sealed, model.environment, model.spec)
    for step in (export, validate, publish, benchmark):
        step.run(sealed, model.environment)
    with pytest.raises(SignatureMissing, match=f"model-release sign {model.name} {FIRST}"):
        strict.release(strict.restore(FIRST))
    assert strict.steps() == ["plan"]
    assert fleets_of(strict.environment, model.name) == []

    done = sign.run(model.name, FIRST, strict.environment, run_id="sign-1", by="tests")
    with Clients(strict):
        assert strict.release(replace(strict.restore(FIRST), run_id="restore-2"))["stable"] == FIRST
    events = Events(store, model.name).read()
    assert [event["signatures"] for event in events if event["what"] == "signed"] == [done["signatures"]]


def test_what_changed_since_it_was_signed_reaches_no_fleet(strict: Model) -> None:
    store = ObjectStore(strict.environment.s3)
    archive = Archive(store, strict.name)

    def swap(version: int) -> None:
        base = archive.require(version)
        key = archive.key_in(base, "model.onnx")
        store.put(key, with_the_same_crc(store.get(key)[0]))
        archive.compare(key, base.files["model.onnx"])

    with Clients(strict):
        strict.release(strict.build(FIRST))
    served, before = fleets_of(strict.environment, strict.name), strict.state

    def swap_after_publish(told: Told) -> None:
        if told.step == "publish":
            swap(SECOND)

    with pytest.raises(ReleaseError, match=r"the bytes of .*model\.onnx changed: got sha256"):
        run(strict.build(SECOND), strict.environment, strict.spec, swap_after_publish)
    assert fleets_of(strict.environment, strict.name) == served
    assert (strict.state.stable, strict.state.weights.confirmed) == (before.stable, before.weights.confirmed)

    [signature] = [
        entry.key for entry in store.objects(Signatures(store, strict.name, Signing()).folder(FIRST, "base"))
    ]
    bundle, _ = store.get(signature)
    store.delete(signature)
    with pytest.raises(SignatureMissing, match=f"model-release sign {strict.name} {FIRST}"):
        strict.release(strict.build(BROKEN))  # bench would compare it with stable's version
    assert strict.steps() == ["plan"]
    store.put(signature, bundle)

    # A version that is loaded already, as a warm standby, is read all the same.
    StateFile(store, strict.name).change(
        lambda state: state.model_copy(update={"standby": state.stable, "stable": None})
    )
    plan.run(strict.restore(FIRST), strict.environment, strict.spec)
    swap(FIRST)
    with pytest.raises(BytesDiffer, match=r"model\.onnx changed: got sha256"):
        deploy.run(strict.restore(FIRST), strict.environment)
    assert strict.state.canary is None


def test_a_release_that_nobody_would_believe_begins_nothing(strict: Model, tmp_path: Path) -> None:
    unpinned = key_pair(tmp_path, "unpinned")
    signing = strict.environment.signing.model_copy(update={"private_key": unpinned.private})
    environment = strict.environment.model_copy(update={"signing": signing})

    with pytest.raises(SigningKeyUnusable):
        run(strict.build(FIRST), environment, strict.spec, lambda _: None)
    assert strict.state.epoch == 0

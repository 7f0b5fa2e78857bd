"""Signatures over files whose sums are known: what is believed, and that nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from model_release.cli.main import app
from model_release.environment import S3, Environment, Signing
from model_release.errors import BadModelConfig, SignerMissing, SigningKeyUnusable
from model_release.identity import Kind, Release
from model_release.repository import signing as signed
from model_release.repository.signing import NotVerified, key_id, require_usable, verify
from model_release.spec_files import load_spec, parse_section
from model_release.steps import plan
from sandbox.settings import ROOT
from tests.unit.fake_s3 import FakeS3
from tests.unit.keys import Pair, key_pair

FILES = {"model.onnx": b"weights", "warmup/image": b"1234", "manifest.json": b"{}"}
SUMS = {name: sha256(body).hexdigest() for name, body in FILES.items()}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return key_pair(tmp_path, "signer")


@pytest.fixture
def bundle(pair: Pair) -> bytes:
    return signed.sign(Signing(private_key=pair.private), SUMS)[1]


def test_a_signature_is_believed_by_its_pinned_key_among_others(pair: Pair, bundle: bytes, tmp_path: Path) -> None:
    other = key_pair(tmp_path, "other", curve=ec.SECP384R1())

    assert verify([other.public, pair.public], bundle, SUMS) == key_id(pair.public)


def test_a_folder_with_these_files_is_verified_by_the_package_itself(pair: Pair, bundle: bytes, tmp_path: Path) -> None:
    from model_signing import verifying

    folder = tmp_path / "part"
    for name, body in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (tmp_path / "signature").write_bytes(bundle)
    upstream = verifying.Config().use_elliptic_key_verifier(public_key=pair.public)

    upstream.verify(folder, tmp_path / "signature")
    (folder / "model.onnx").write_bytes(b"Weights")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'model\.onnx'"):
        upstream.verify(folder, tmp_path / "signature")


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        ({**SUMS, "model.onnx": "0" * 64}, r"other bytes of model\.onnx"),
        ({name: value for name, value in SUMS.items() if name != "warmup/image"}, "other files: warmup/image"),
        ({**SUMS, "extra.so": "0" * 64}, r"other files: extra\.so"),
    ],
)
def test_a_signature_is_of_exactly_these_files(pair: Pair, bundle: bytes, sums: dict[str, str], said: str) -> None:
    with pytest.raises(NotVerified, match=said):
        verify([pair.public], bundle, sums)


def test_a_key_that_is_not_pinned_is_named(bundle: bytes, pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(NotVerified, match=f"by the key {key_id(pair.public)[:16]}, which is not pinned"):
        verify([key_pair(tmp_path, "other").public], bundle, SUMS)


def test_a_signature_that_names_a_pinned_key_has_to_be_by_it(pair: Pair, bundle: bytes, tmp_path: Path) -> None:
    other = key_pair(tmp_path, "other")
    told = json.loads(bundle)
    told["verificationMaterial"]["publicKey"]["hint"] = key_id(other.public)

    with pytest.raises(NotVerified, match="did not make it"):
        verify([other.public], json.dumps(told).encode(), SUMS)


def forged(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Change what the bundle's envelope says."""
    return lambda told: {**told, "dsseEnvelope": {**told["dsseEnvelope"], **changes}}


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: [],
        lambda _: {},
        lambda _: "signature",
        lambda told: {**told, "verificationMaterial": {"publicKey": {"hint": ""}}},
        lambda told: {**told, "verificationMaterial": {"publicKey": {"hint": None}}},
        forged(signatures=[]),
        forged(payload=""),
        forged(payloadType="text/plain"),
        lambda told: {name: value for name, value in told.items() if name != "dsseEnvelope"},
    ],
)
def test_what_is_no_signature_is_not_believed(
    pair: Pair, bundle: bytes, forge: Callable[[dict[str, Any]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotVerified):
        verify([pair.public], json.dumps(forge(json.loads(bundle))).encode(), SUMS)
    assert capsys.readouterr().out == ""


def test_half_a_signature_is_not_believed(pair: Pair, bundle: bytes) -> None:
    with pytest.raises(NotVerified):
        verify([pair.public], bundle[: len(bundle) // 2], SUMS)


def test_a_key_with_a_password_signs(tmp_path: Path) -> None:
    pair = key_pair(tmp_path, "locked", password="open sesame")
    config = {"private_key": str(pair.private), "private_key_password": "open sesame", "trusted": [str(pair.public)]}

    require_usable(Signing.model_validate({**config, "require": True}), signer=True)
    with pytest.raises(SigningKeyUnusable, match="password"):
        require_usable(Signing.model_validate({**config, "private_key_password": "guess"}), signer=True)


def test_a_key_that_does_not_open_is_told_before_it_is_needed(pair: Pair, tmp_path: Path) -> None:
    no_key = tmp_path / "no.pem"
    no_key.write_text("-----BEGIN")
    curve = key_pair(tmp_path, "curve", curve=ec.SECP256K1())
    for config in (
        {"private_key": tmp_path / "none.pem"},
        {"private_key": no_key},
        {"private_key": curve.private},
        {"trusted": [no_key]},
        {"trusted": [pair.public, tmp_path / "none.pem"]},
        {"trusted": [curve.public]},
        {"trusted": [pair.private]},
    ):
        with pytest.raises(SigningKeyUnusable, match="cannot be used"):
            require_usable(Signing.model_validate(config), signer=False)


def test_a_signer_whose_own_signatures_would_not_be_believed_is_refused(pair: Pair, tmp_path: Path) -> None:
    pinned = key_pair(tmp_path, "pinned").public

    with pytest.raises(SigningKeyUnusable, match=r"is not in signing\.trusted"):
        require_usable(Signing(private_key=pair.private, trusted=[pinned], require=True), signer=True)
    require_usable(Signing(private_key=pair.private, trusted=[pinned]), signer=True)


def test_a_token_without_its_package_says_what_to_install_and_not_the_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyKCS11", None)
    config = Signing.model_validate({"pkcs11_uri": "pkcs11:token=release;object=signer?pin-value=4711"})

    with pytest.raises(SigningKeyUnusable, match=r"model-release\[pkcs11\]") as caught:
        require_usable(config, signer=True)
    assert "4711" not in str(caught.value)
    assert "4711" not in repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{require: true}", "at least one public key"),
        ("{private_key: a, pkcs11_uri: 'pkcs11:x?pin-value=4711'}", "name one"),
        ("{private_key_password: '4711'}", "without a private_key"),
        ("{trust: [a]}", "Did you mean 'trusted'"),
    ],
)
def test_a_section_that_does_not_hold_is_refused_and_its_secrets_are_not_shown(text: str, said: str) -> None:
    with pytest.raises(BadModelConfig, match=said) as caught:
        parse_section(Signing, text, "environment.yaml")
    assert "4711" not in str(caught.value)


def environment(s3: Any, signing: Signing) -> Environment:
    address = {"name": "one", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}
    fleets = {name: {"replicas": [address]} for name in ("blue", "green", "bench")}
    router = {"directory": "routes", "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"}
    told = {"s3": s3, "pairs": {"default": fleets}, "router": router, "signing": signing}
    return Environment.model_validate(told)


def test_a_build_that_nobody_could_deploy_is_refused_before_the_claim(pair: Pair) -> None:
    spec = load_spec(ROOT / "include" / "model_configs" / "digits_classifier.yaml")
    fake = FakeS3()
    with fake.served() as s3:
        asked = Release(spec.name, 20260101000000, Kind.BUILD, "run-1", checkpoint="s3://x/y")
        with pytest.raises(SignerMissing, match="no signer"):
            plan.run(asked, environment(s3, Signing(trusted=[pair.public], require=True)), spec)
        with pytest.raises(SigningKeyUnusable):
            plan.run(asked, environment(s3, Signing(private_key=Path("none.pem"))), spec)
    assert [key for key in fake.objects if "/ledger/" in key] == []


def test_check_opens_the_keys_of_the_environment(pair: Pair, tmp_path: Path) -> None:
    file, configs = tmp_path / "environment.yaml", str(ROOT / "include" / "model_configs")
    s3 = S3(bucket="models", endpoint_url="http://127.0.0.1:1")
    for key, opens in ((pair.private, True), (tmp_path / "none.pem", False)):
        told = environment(s3, Signing(private_key=key, trusted=[pair.public])).model_dump(mode="json")
        file.write_text(yaml.safe_dump(told))
        done = CliRunner().invoke(app, ["--configs", configs, "--environment", str(file), "check"])
        assert isinstance(done.exception, SigningKeyUnusable) == (not opens)
        assert ("keys: it signs and believes 1 signers" in done.stdout) == opens


def test_nothing_of_it_is_imported_until_something_is_signed() -> None:
    code = "import sys, model_release.steps.story; sys.exit('model_signing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

"""A signer whose key is in a token, on SoftHSM 2: run where PyKCS11 and softhsm2-util are installed."""

from __future__ import annotations

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from model_release.environment import Signing
from model_release.errors import SigningKeyUnusable
from model_release.repository import signing as signed
from model_release.repository.signing import key_id, require_usable, verify
from tests.unit.keys import Pair, key_pair

pytest.importorskip("PyKCS11", reason="the extra pkcs11 is not installed")
_TOOL = shutil.which("softhsm2-util")
pytestmark = pytest.mark.skipif(_TOOL is None, reason="softhsm2-util is not installed")

PIN = "4711"
SUMS = {"manifest.json": sha256(b"{}").hexdigest()}


@pytest.fixture
def module() -> Path:
    """SoftHSM's library, beside its tool."""
    found = sorted(Path(_TOOL or "").resolve().parents[1].glob("lib*/**/libsofthsm2.so"))
    return found[0]


@pytest.fixture
def pair(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A key that is in a token too."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    pair = key_pair(tmp_path, "signer")
    for arguments in (
        ["--init-token", "--free", "--label", "release", "--pin", PIN, "--so-pin", "0000"],
        ["--import", str(pair.private), "--token", "release", "--label", "signer", "--id", "01", "--pin", PIN],
    ):
        subprocess.run([str(_TOOL), "--module", str(module), *arguments], check=True, capture_output=True, timeout=30)
    return pair


def token(pair: Pair, query: str, **more: object) -> Signing:
    told = {"pkcs11_uri": f"pkcs11:token=release;object=signer?{query}", "trusted": [pair.public], "require": True}
    return Signing.model_validate({**told, **more})


def test_a_key_in_a_token_signs_and_is_believed_by_its_public_key(pair: Pair, module: Path) -> None:
    for signing in (
        token(pair, f"module-path={module}&pin-value={PIN}"),
        token(pair, f"module-name=softhsm2&pin-value={PIN}", pkcs11_modules=[module.parent]),
    ):
        require_usable(signing, signer=True)
        made_by, bundle = signed.sign(signing, SUMS)
        assert made_by == key_id(pair.public) == verify([pair.public], bundle, SUMS)


def test_a_token_that_does_not_open_is_told_without_its_pin(pair: Pair, module: Path) -> None:
    with pytest.raises(SigningKeyUnusable, match="CKR_PIN_INCORRECT") as caught:
        require_usable(token(pair, f"module-path={module}&pin-value=wrong"), signer=True)
    assert "wrong" not in str(caught.value)
    with pytest.raises(SigningKeyUnusable, match="PKCS#11"):
        require_usable(token(pair, f"module-path=/none.so&pin-value={PIN}"), signer=True)

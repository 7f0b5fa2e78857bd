"""
OpenSSF Model Signing: one signature over a folder of files whose sha256 are known already.

A signature is a Sigstore bundle as the package `model-signing` (1.1) writes it, so its own command line verifies a
downloaded folder: `model_signing verify key --signature SIGNATURE --public_key KEY FOLDER`. The package would read
every file again to hash it; here it is given the sums. It is imported only where something is signed or verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from model_release.environment import Signing
from model_release.errors import SignerMissing, SigningKeyUnusable

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
#: What `model_signing` and what it is made of raise for a bundle that somebody else may have written.
_NOT_A_BUNDLE = (ValueError, KeyError, TypeError, IndexError, AttributeError)


class NotVerified(Exception):
    """Why a signature is not believed, in words."""


def sign(signing: Signing, sums: Mapping[str, str]) -> tuple[str, bytes]:
    """
    Sign files by their sha256 (hex, by path in the folder); returns the id of the key and the bundle.

    Raises SignerMissing, SigningKeyUnusable.
    """
    config = _signer(signing).set_hashing_config(_already_hashed(sums))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "signature"
        try:
            config.sign(PurePosixPath("sealed"), path)
        except Exception as error:  # a token raises errors of its own kinds
            raise SigningKeyUnusable(_named(signing), _without_pin(error)) from error
        bundle = path.read_bytes()
    return _key_of(bundle), bundle


def verify(trusted: Sequence[Path], bundle: bytes, sums: Mapping[str, str]) -> str:
    """
    Verify that a bundle signs exactly these files, and that one of the trusted keys made it; returns the key's id.

    Raises NotVerified, SigningKeyUnusable for a trusted key that cannot be read.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    pinned = {key_id(path): path for path in trusted}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "signature"
        path.write_bytes(bundle)
        try:
            key = _key_of(bundle)
            if key not in pinned:
                raise NotVerified(f"it is by the key {key[:16]}, which is not pinned")
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=pinned[key])
            verifier.set_hashing_config(_already_hashed(sums)).verify(PurePosixPath("sealed"), path)
        except InvalidSignature:
            raise NotVerified(f"it names the key {key[:16]}, which did not make it") from None
        except _NOT_A_BUNDLE as error:
            raise NotVerified(_why_not(error)) from error
    return key


def key_id(public_key: Path) -> str:
    """Return the id by which a bundle names a public key: the sha256 of its PEM. Raises SigningKeyUnusable."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(public_key.read_bytes())
    except (OSError, ValueError) as error:
        raise SigningKeyUnusable(f"the public key {public_key}", str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise SigningKeyUnusable(f"the public key {public_key}", f"it is not of {', '.join(_CURVES)}")
    return sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def require_usable(signing: Signing, *, signer: bool) -> None:
    """
    Open every key that is configured and sign something by it, before anything depends on it.

    With `signer`, a signer has to be there if signatures are required. Raises SigningKeyUnusable, SignerMissing.
    """
    pinned = {key_id(path) for path in signing.trusted}
    if signing.signs:
        made_by, _ = sign(signing, {"probe": sha256(b"probe").hexdigest()})
        if signing.require and made_by not in pinned:
            raise SigningKeyUnusable(
                _named(signing),
                f"its public key {made_by[:16]} is not in signing.trusted, so no release would be believed",
            )
    elif signer and signing.require:
        raise SignerMissing


def _signer(signing: Signing) -> Any:
    """Return the package's configuration with the signer opened."""
    from model_signing import signing as upstream

    config = upstream.Config()
    try:
        if signing.pkcs11_uri is not None:
            folders = [str(folder) for folder in signing.pkcs11_modules]
            return config.use_pkcs11_signer(pkcs11_uri=signing.pkcs11_uri.get_secret_value(), module_paths=folders)
        if signing.private_key is None:
            raise SignerMissing
        password = signing.private_key_password
        # cryptography takes bytes, whatever the package's type says.
        given: Any = password.get_secret_value().encode() if password else None
        return config.use_elliptic_key_signer(private_key=signing.private_key, password=given)
    except SignerMissing:
        raise
    except Exception as error:  # a token raises errors of its own kinds
        raise SigningKeyUnusable(_named(signing), _without_pin(error)) from None


def _why_not(error: Exception) -> str:
    why = " ".join(str(error).split())
    if "Signature mismatch" not in why:
        return why[:400] if isinstance(error, ValueError) and why else f"it is no signature ({error!r:.100})"
    changed = re.findall(r"Hash mismatch for '([^']+)'", why)
    others = re.findall(r"(?:Extra|Missing) files [^:]*: ([^\"]+)", why)
    return f"it signs other bytes of {', '.join(changed) or 'no file'}, and other files: {', '.join(others) or 'none'}"


def _named(signing: Signing) -> str:
    return "the PKCS#11 key" if signing.pkcs11_uri is not None else f"the private key {signing.private_key}"


def _without_pin(error: Exception) -> str:
    why = re.sub(r"pin-(value|source)=[^&;\s]*", r"pin-\1=***", " ".join(str(error).split())) or type(error).__name__
    if isinstance(error, RuntimeError) and "extra" in why:
        return "the package PyKCS11 is not installed; install model-release[pkcs11], or model-signing[pkcs11]"
    return why


def _key_of(bundle: bytes) -> str:
    """Return the id of the key that a bundle names. Raises what is in _NOT_A_BUNDLE."""
    key = json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"]
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError("it names no key")
    return str(key)


def _already_hashed(sums: Mapping[str, str]) -> Any:
    """Return a hashing configuration of the package that knows the sums and reads nothing."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    how = manifest.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": False})
    items = [how.new_item(name, Digest("sha256", bytes.fromhex(sums[name]))) for name in sorted(sums)]

    known: Any = hashing.Config()
    known.hash = lambda *_, **__: manifest.Manifest("sealed", items, how)
    return known

"""The manifest: the one object whose write seals a part of a version."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from awscrt.checksums import crc64nvme

from model_release.spec import Section

NAME = "manifest.json"
_CHUNK_BYTES = 2**20


class FileEntry(Section):
    """A sealed file: its bytes by two sums; S3 keeps and compares the CRC (base64) by itself."""

    sha256: str
    crc64nvme: str
    size_bytes: int


class SourceEntry(Section):
    """The checkpoint that a version was made of."""

    uri: str
    sha256: str


class Manifest(Section):
    """What a sealed part (`base` or `tuned`) holds, of what and by whom it was made."""

    schema_version: Literal[1, 2] = 2
    """Of 1 each file lies under its name, of 2 under its sha256 and its name."""
    model: str
    version: int
    part: Literal["base", "tuned"]
    contract: int
    source: SourceEntry
    files: dict[str, FileEntry]
    tools: dict[str, str]
    summary: dict[str, Any]
    spec_digest: str
    release_digest: str
    run_id: str
    sealed_at: datetime
    by: str = ""


def body_of(manifest: Manifest) -> bytes:
    """Return the bytes that seal a part: what is written, and what a signature is of."""
    return manifest.model_dump_json(indent=1).encode()


def digest_of(bodies: Mapping[str, bytes]) -> str:
    """
    Return the digest of a version: the sha256 of a line `<part> <sha256 of its manifest.json>` for each part, in order.

    A manifest names each of its files by sha256, so the digest names every byte of the version, tuned config included.
    """
    lines = (f"{part} {hashlib.sha256(bodies[part]).hexdigest()}\n" for part in sorted(bodies))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe(path: Path) -> FileEntry:
    """Return the sums and the size of a file on disk, read once in chunks."""
    sha256, crc, size_bytes = hashlib.sha256(), 0, 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            crc = crc64nvme(chunk, crc)
            size_bytes += len(chunk)
    return FileEntry(
        sha256=sha256.hexdigest(), crc64nvme=base64.b64encode(crc.to_bytes(8, "big")).decode(), size_bytes=size_bytes
    )


def tool_versions() -> dict[str, str]:
    """Return the versions of the packages that made the files."""
    found = {}
    for package in (
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime-gpu",
        "tensorrt",
        "tensorrt-cu12",
        "tensorrt-cu13",
        "model-release",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

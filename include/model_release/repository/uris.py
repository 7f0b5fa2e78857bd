"""Files that users name by URI, streamed to disk: checkpoints, samples, golden sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

from model_release.environment import Environment
from model_release.errors import BadModelConfig, CheckpointMissing, CheckpointUnreadable
from model_release.repository.store import KeyAbsent, mapped_errors, s3_client

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class FetchedFile:
    """A file on disk, and what was read on the way."""

    path: Path
    sha256: str
    size_bytes: int


def fetch(
    uri: str, to: Path, environment: Environment, *, max_bytes: int | None = None, sha256: str | None = None
) -> FetchedFile:
    """
    Stream an s3:// (any bucket) or file:// URI to the file `to`.

    Raises CheckpointMissing, CheckpointUnreadable (over `max_bytes`, or not of the pinned `sha256`),
    StoreUnavailable, and BadModelConfig for another scheme. On an error no file stays.
    """
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with _opened(uri, environment) as source, to.open("wb") as target, mapped_errors(uri):
            while chunk := source.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if max_bytes is not None and size_bytes > max_bytes:
                    raise CheckpointUnreadable(uri, f"it is larger than the allowed {max_bytes} bytes")
                digest.update(chunk)
                target.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise CheckpointUnreadable(uri, f"its sha256 is {digest.hexdigest()}, the spec pins {sha256}")
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return FetchedFile(to, digest.hexdigest(), size_bytes)


@contextmanager
def _opened(uri: str, environment: Environment) -> Iterator[BinaryIO]:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        try:
            with path.open("rb") as stream:
                yield stream
        except FileNotFoundError:
            raise CheckpointMissing(uri, "there is no such file") from None
        except IsADirectoryError:
            raise CheckpointMissing(uri, "it is a folder") from None
    elif parts.scheme == "s3":
        client = s3_client(environment.s3)
        try:
            with mapped_errors(uri):
                body = client.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]
        except KeyAbsent:
            raise CheckpointMissing(uri) from None
        with body:
            yield cast("BinaryIO", body)
    else:
        raise BadModelConfig(uri, ["a URI starts with s3:// or file://"])

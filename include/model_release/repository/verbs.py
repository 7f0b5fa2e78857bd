"""The verbs that a store has to have, and how each is tried: seen to work, and to refuse."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from model_release.environment import S3
from model_release.errors import ReleaseError, StoreUnavailable
from model_release.repository import manifest as manifests
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore

#: A last part may be of any size, so a few bytes are enough for an upload in parts and for a read in ranges.
_IN_PARTS = TransferConfig(multipart_threshold=1, multipart_chunksize=16)
_CLOCKS_APART = timedelta(seconds=10)
_FALSE_SUM = "AAAAAAAAAAA="

log = logging.getLogger(__name__)


class Shortfall(Exception):
    """What the store did instead, in words."""


class Room:
    """A prefix of the probe's own, and what it writes there."""

    def __init__(self, s3: S3, folder: Path) -> None:
        self.store = ObjectStore(s3)
        self.in_parts = self.store.transferring(_IN_PARTS)
        self.root = f"probe/{uuid.uuid4().hex}/"
        self.file, self.copy_of_file = folder / "file", folder / "copy"
        self.body = f"probe {self.root} of a store".encode()
        self.file.write_bytes(self.body)
        self.crc64nvme = manifests.describe(self.file).crc64nvme
        self._keys: dict[str, None] = {}

    def key(self, name: str) -> str:
        """Return a key of the probe, which is removed at the end."""
        self._keys[self.root + name] = None
        return self.root + name

    def kept(self, key: str) -> bytes | None:
        """Return what the store keeps under a key, or None."""
        try:
            return self.store.get(key)[0]
        except KeyAbsent:
            return None

    def write_under_a_condition_that_holds(self, key: str, body: bytes, **condition: str | bool) -> None:
        """A PUT whose answer was lost, and that is sent again, fails its own condition: what is kept decides."""
        try:
            self.store.put(key, body, **condition)  # type: ignore[arg-type]
        except ConditionFailed:
            if self.kept(key) != body:
                raise Shortfall("it refused a write whose condition held") from None

    def require_sum(self, key: str) -> None:
        """Compare size and CRC with those of the probe's body."""
        found = self.store.head(key)
        if (found.size_bytes, found.crc64nvme) != (len(self.body), self.crc64nvme):
            raise Shortfall(
                f"it tells crc64nvme {found.crc64nvme} of {found.size_bytes} bytes, "
                f"and {self.crc64nvme} of {len(self.body)} bytes was written"
            )

    def clear(self) -> None:
        """Remove all that the probe may have written; what cannot be removed is logged, and hides no other error."""
        for key in self._keys:
            try:
                self.store.delete(key)
            except (ReleaseError, KeyAbsent, ConditionFailed) as error:
                log.warning("the probe's key %s was not removed: %s", key, error)
                if not isinstance(error.__cause__, ClientError):
                    return  # nothing answers, and every other key would wait for it again


def _put(room: Room) -> None:
    room.store.put(room.key("object"), room.body)


def _get(room: Room) -> None:
    if room.kept(room.key("object")) != room.body:
        raise Shortfall("it does not give back what was just written")
    if room.kept(room.key("absent")) is not None:
        raise Shortfall("it gave an object for a key that was never written")


def _head(room: Room) -> None:
    room.require_sum(room.key("object"))


def _false_sum(room: Room) -> None:
    key = room.key("false")
    try:
        room.store.put(key, room.body, crc64nvme=_FALSE_SUM)
    except StoreUnavailable as error:
        if status_of(error) != 400:
            raise
    else:
        raise Shortfall("it took a body whose sum was false")


def _create(room: Room) -> None:
    key = room.key("created")
    room.write_under_a_condition_that_holds(key, b"first", if_absent=True)
    try:
        room.store.put(key, b"second", if_absent=True)
    except ConditionFailed:
        if room.kept(key) == b"first":
            return
        raise Shortfall("it answered that the key is taken, and overwrote it") from None
    raise Shortfall("it ignored the condition and took a second write to a key that was there")


def _replace(room: Room) -> None:
    key = room.key("replaced")
    room.store.put(key, b"first")
    first = room.store.get(key)[1]
    room.write_under_a_condition_that_holds(key, b"second", if_match=first)
    try:
        room.store.put(key, b"third", if_match=first)
    except ConditionFailed:
        if room.kept(key) == b"second":
            return
        raise Shortfall("it answered that the ETag is stale, and overwrote the object") from None
    raise Shortfall("it ignored the condition and took a write with a stale ETag")


def _list(room: Room) -> None:
    key = room.key("listed/object")
    etag = room.store.put(key, room.body)
    found = [(entry.key, entry.etag, entry.size_bytes) for entry in room.store.objects(f"{room.root}listed/")]
    if found != [(key, etag, len(room.body))]:
        raise Shortfall(f"after one write it lists {len(found)} objects of that prefix, or another ETag or size")
    if room.store.folders(room.root) != ["listed"]:
        raise Shortfall("with a delimiter it does not list the folders")


def _copy(room: Room) -> None:
    room.store.copy(room.key("object"), room.key("copied"))
    room.require_sum(room.key("copied"))


def _upload_in_parts(room: Room) -> None:
    room.in_parts.upload(room.file, room.key("uploaded"))
    room.require_sum(room.key("uploaded"))


def _copy_in_parts(room: Room) -> None:
    room.in_parts.copy(room.key("object"), room.key("copied-in-parts"))
    room.require_sum(room.key("copied-in-parts"))


def _read_in_ranges(room: Room) -> None:
    room.in_parts.download(room.key("object"), room.copy_of_file)
    if room.copy_of_file.read_bytes() != room.body:
        raise Shortfall("the ranges together are other bytes than were written")


def _delete(room: Room) -> None:
    key = room.key("deleted")
    room.store.put(key, room.body)
    room.store.delete(key)
    if room.kept(key) is not None or room.store.objects(key):
        raise Shortfall("it still has an object that was deleted")
    room.store.delete(key)


def _delete_if_match(room: Room) -> None:
    key = room.key("deleted-if")
    stale = room.store.put(key, b"first")
    room.store.put(key, b"second")
    try:
        room.store.delete(key, if_match=stale)
    except ConditionFailed:
        if room.kept(key) != b"second":
            raise Shortfall("it answered that the ETag is stale, and deleted the object") from None
    else:
        raise Shortfall("it ignored the condition and took a delete with a stale ETag")


def _clock(room: Room) -> None:
    before = room.store.now()
    room.store.put(room.key("timed"), room.body)
    modified, after = room.store.head(room.key("timed")).last_modified, room.store.now()
    if not before - _CLOCKS_APART <= modified <= after + _CLOCKS_APART:
        raise Shortfall(f"it says that it is {after}, and that an object of this moment is of {modified}")


@dataclass(frozen=True)
class Verb:
    """What is relied on, and for what."""

    name: str
    needed: str
    try_in: Callable[[Room], None]


_SUMS = "What is sealed is compared by this sum."
VERBS = (
    Verb("PutObject with a CRC64NVME", _SUMS, _put),
    Verb("GetObject of what was just written", "Every step reads what the step before wrote.", _get),
    Verb("HeadObject with the CRC64NVME of the whole object", _SUMS, _head),
    Verb("the refusal of a body that differs from its CRC64NVME", _SUMS, _false_sum),
    Verb("PutObject with If-None-Match: *", "A version is sealed by it, and an event is never overwritten.", _create),
    Verb("PutObject with If-Match", "Of two that want to change what a model serves, one wins by it.", _replace),
    Verb("ListObjectsV2 of what was just written", "Versions and events are found by it.", _list),
    Verb("CopyObject with its CRC64NVME", "Sealed files reach the fleets by it.", _copy),
    Verb(
        "a multipart upload with the CRC64NVME of the whole object", "Large files are sealed by it.", _upload_in_parts
    ),
    Verb(
        "UploadPartCopy with the CRC64NVME of the whole object", "Large files reach the fleets by it.", _copy_in_parts
    ),
    Verb("GetObject of a range", "Large files are read by it.", _read_in_ranges),
    Verb("DeleteObject", "A fleet stops having a version by it.", _delete),
    Verb(
        "DeleteObject with If-Match", "Nobody who was paused deletes what another has just written.", _delete_if_match
    ),
    Verb("a Date header of the clock of LastModified", "Claims and Triton's reloads go by it.", _clock),
)


def status_of(error: StoreUnavailable) -> int | None:
    """Return the HTTP status that a store answered with, if it answered."""
    answer = error.__cause__
    metadata = answer.response.get("ResponseMetadata") if isinstance(answer, ClientError) else None
    return metadata.get("HTTPStatusCode") if metadata else None

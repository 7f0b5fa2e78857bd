"""S3 as this library uses it: conditional writes, copies with a checked CRC, and errors that name the object."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model_release.environment import S3
from model_release.errors import StoreUnavailable

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CONDITION = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
#: Beyond this an upload or copy goes in parts; its CRC64NVME is still of the whole object.
_TRANSFER = TransferConfig(multipart_threshold=64 * 2**20, multipart_chunksize=32 * 2**20)


class KeyAbsent(LookupError):
    """No object has that key."""


class ConditionFailed(Exception):
    """A conditional write lost: the object exists, or is another than was read."""


@dataclass(frozen=True)
class StoredObject:
    """What S3 tells of an object; `crc64nvme` (base64, of the whole object) only after a HEAD or GET."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    crc64nvme: str | None = None


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload in parts that nobody completed; its parts are kept, and paid for, until it is aborted."""

    key: str
    upload_id: str
    begun_at: datetime


def s3_client(s3: S3) -> Any:
    """Return a boto3 client with short timeouts and adaptive retries; keys from the environment if it has any."""
    secret = s3.secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            connect_timeout=3,
            read_timeout=60,
            retries={"max_attempts": 4, "mode": "adaptive"},
            s3={"addressing_style": "path"} if s3.endpoint_url else {},
        ),
    )


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Translate boto's errors: an absent key, a lost condition, or a store that does not answer."""
    try:
        yield
    except ClientError as error:
        raise _meaning(where, error) from error
    except S3UploadFailedError as error:
        # boto3 hides what S3 answered to upload_file behind an error of its own.
        answer = error.__context__
        if not isinstance(answer, ClientError):
            raise StoreUnavailable(where, " ".join(str(error).split())) from error
        raise _meaning(where, answer) from answer
    except (BotoCoreError, OSError) as error:
        raise StoreUnavailable(where, " ".join(str(error).split())) from error


def _meaning(where: str, error: ClientError) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _ABSENT:
        return KeyAbsent(where)
    if code in _CONDITION:
        return ConditionFailed(where)
    message = error.response.get("Error", {}).get("Message", "")
    return StoreUnavailable(where, f"{code} {message}".strip())


class ObjectStore:
    """
    The objects under the environment's bucket and prefix; keys are relative to them.

    Every method raises StoreUnavailable when S3 does not answer or refuses the credentials.
    """

    def __init__(self, s3: S3) -> None:
        self._client = s3_client(s3)
        self._transfer = _TRANSFER
        self._bucket = s3.bucket
        self._prefix = f"{s3.prefix}/" if s3.prefix else ""

    def transferring(self, transfer: TransferConfig) -> ObjectStore:
        """Return the same store, that goes in parts by another measure."""
        other = copy.copy(self)
        other._transfer = transfer
        return other

    def _where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def get(self, key: str) -> tuple[bytes, str]:
        """Return an object's bytes and ETag. Raises KeyAbsent."""
        with mapped_errors(self._where(key)):
            answer = self._client.get_object(**self._address(key))
            return answer["Body"].read(), answer["ETag"]

    def put(
        self,
        key: str,
        body: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        crc64nvme: str | None = None,
    ) -> str:
        """
        Write an object with a full-object CRC64NVME and return its ETag.

        A `crc64nvme` that was worked out before is sent as it is. Raises ConditionFailed when it lost.
        """
        conditions: dict[str, str] = {}
        if if_absent:
            conditions["IfNoneMatch"] = "*"
        if if_match is not None:
            conditions["IfMatch"] = if_match
        if crc64nvme is not None:
            conditions["ChecksumCRC64NVME"] = crc64nvme
        with mapped_errors(self._where(key)):
            answer = self._client.put_object(
                **self._address(key), Body=body, ChecksumAlgorithm="CRC64NVME", **conditions
            )
            return str(answer["ETag"])

    def head(self, key: str) -> StoredObject:
        """Return what S3 tells of an object. Raises KeyAbsent."""
        with mapped_errors(self._where(key)):
            answer = self._client.head_object(**self._address(key), ChecksumMode="ENABLED")
        return StoredObject(
            key=key,
            size_bytes=answer["ContentLength"],
            etag=answer["ETag"],
            last_modified=answer["LastModified"],
            crc64nvme=answer.get("ChecksumCRC64NVME"),
        )

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        try:
            self.head(key)
        except KeyAbsent:
            return False
        return True

    def objects(self, prefix: str, *, after: str = "") -> list[StoredObject]:
        """Return the objects whose keys start with `prefix` and are beyond `after`, in byte order of their keys."""
        found: list[StoredObject] = []
        beyond = {"StartAfter": self._prefix + after} if after else {}
        with mapped_errors(self._where(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, **beyond
            )
            for page in pages:
                found.extend(
                    StoredObject(
                        key=entry["Key"].removeprefix(self._prefix),
                        size_bytes=entry["Size"],
                        etag=entry["ETag"],
                        last_modified=entry["LastModified"],
                    )
                    for entry in page.get("Contents", [])
                )
        return sorted(found, key=lambda entry: entry.key.encode())

    def folders(self, prefix: str) -> list[str]:
        """Return the names directly below `prefix` (which ends in a slash) that hold objects."""
        with mapped_errors(self._where(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, Delimiter="/"
            )
            full = self._prefix + prefix
            return sorted(
                entry["Prefix"].removeprefix(full).rstrip("/")
                for page in pages
                for entry in page.get("CommonPrefixes", [])
            )

    def copy(self, source: str, target: str) -> None:
        """Copy an object of any size inside the store, on the server, in parts if it is large. Raises KeyAbsent."""
        self.copy_from(self, source, target)

    def copy_from(self, other: ObjectStore, source: str, target: str) -> None:
        """Copy an object from a place of the same server that these credentials may read. Raises KeyAbsent."""
        with mapped_errors(other._where(source)):
            self._client.copy(
                other._address(source),
                self._bucket,
                self._prefix + target,
                ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"},
                Config=self._transfer,
            )

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete an object; an absent one is no error. Raises ConditionFailed when it is another than `if_match`."""
        condition = {} if if_match is None else {"IfMatch": if_match}
        with suppress(KeyAbsent), mapped_errors(self._where(key)):
            self._client.delete_object(**self._address(key), **condition)

    def upload(self, path: Path, key: str) -> None:
        """Write a file's bytes, in parts if it is large, with a full-object CRC64NVME."""
        with mapped_errors(self._where(key)):
            self._client.upload_file(
                str(path),
                self._bucket,
                self._prefix + key,
                ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"},
                Config=self._transfer,
            )

    def download(self, key: str, path: Path) -> None:
        """Read an object into a file. Raises KeyAbsent."""
        with mapped_errors(self._where(key)):
            self._client.download_file(self._bucket, self._prefix + key, str(path), Config=self._transfer)

    def unfinished_uploads(self, prefix: str) -> list[UnfinishedUpload]:
        """Return the uploads in parts under `prefix` that were begun and neither completed nor aborted."""
        with mapped_errors(self._where(prefix)):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [
                UnfinishedUpload(entry["Key"].removeprefix(self._prefix), entry["UploadId"], entry["Initiated"])
                for page in pages
                for entry in page.get("Uploads", [])
            ]

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Give up an upload in parts, whose parts are then freed; one that is gone is no error."""
        with mapped_errors(self._where(upload.key)):
            try:
                self._client.abort_multipart_upload(**self._address(upload.key), UploadId=upload.upload_id)
            except self._client.exceptions.NoSuchUpload:
                return

    def now(self) -> datetime:
        """Return the store's own time (second resolution): the clock of claims, the same for every worker."""
        with mapped_errors(self._where("")):
            answer = self._client.head_bucket(Bucket=self._bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

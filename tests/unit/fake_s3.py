"""An S3 in memory, over HTTP, that has every verb of the probe but for the faults that it is told."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from awscrt.checksums import crc64nvme

from model_release.environment import S3

BUCKET = "models"


def sum_of(body: bytes) -> str:
    return base64.b64encode(crc64nvme(body).to_bytes(8, "big")).decode()


@dataclass
class Kept:
    """An object and what is told of it."""

    body: bytes
    crc64nvme: str | None
    at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'


class FakeS3:
    """The objects, the uploads, and what is wrong with it."""

    def __init__(self, *faults: str) -> None:
        self.faults = set(faults)
        self.objects: dict[str, Kept] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.requests = 0
        self.lock = threading.Lock()

    @contextmanager
    def served(self) -> Iterator[S3]:
        """Serve it on a free port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        keys = {"access_key_id": "id", "secret_access_key": "secret"}
        try:
            yield S3.model_validate({"endpoint_url": url, "bucket": BUCKET, "prefix": "own", **keys})
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the client would wait 40 ms for the body of each answer

    def handled(self) -> None:
        parts = urlsplit(self.path)
        self.key = unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/")
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.fake.lock:  # a condition holds until what was asked on it is written
            self.do_verb()

    def do_verb(self) -> None:
        self.fake.requests += 1
        refusal = next((re.fullmatch(r"(\d{3}) to (.+)", fault) for fault in self.fake.faults if " to " in fault), None)
        if refusal is not None and refusal[2] == self.verb:
            self.refuse(int(refusal[1]), "NotImplemented" if refusal[1] == "501" else "SomeError")
        else:
            getattr(self, self.verb)()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handled  # noqa: N815

    @property
    def verb(self) -> str:
        if self.command == "PUT":
            name = "UploadPart" if "partNumber" in self.query else "Object"
            return f"{name}Copy" if "x-amz-copy-source" in self.headers else f"Put{name}"
        if self.command == "POST":
            return "CreateMultipartUpload" if "uploads" in self.query else "CompleteMultipartUpload"
        if self.command == "DELETE" and "uploadId" in self.query:
            return "AbortMultipartUpload"
        if not self.key:
            return "HeadBucket" if self.command == "HEAD" else "ListObjectsV2"
        return f"{self.command.title()}Object"

    def PutObject(self) -> None:  # noqa: N802
        sent, there = self.headers.get("x-amz-checksum-crc64nvme"), self.fake.objects.get(self.key)
        if sent is not None and sent != sum_of(self.body) and "takes false sums" not in self.fake.faults:
            self.refuse(400, "BadDigest")
            return
        lost = self.condition_lost(there)
        if not lost or f"writes despite a lost {lost}" in self.fake.faults:
            self.fake.objects[self.key] = Kept(self.body, sent)
        if lost:
            self.refuse(412, "PreconditionFailed")
        else:
            self.answer(ETag=self.fake.objects[self.key].etag)

    def condition_lost(self, there: Kept | None) -> str | None:
        """Return the header whose condition does not hold."""
        asked, faults = self.headers.get("If-Match"), self.fake.faults
        if "If-None-Match" in self.headers and "ignores If-None-Match" not in faults:
            return "If-None-Match" if there is not None or "refuses a new key" in faults else None
        if asked is not None and "ignores If-Match" not in faults:
            holds = there is not None and there.etag == asked and "refuses the right ETag" not in faults
            return None if holds else "If-Match"
        return None

    def ObjectCopy(self) -> None:  # noqa: N802
        source = self.copied()
        self.fake.objects[self.key] = Kept(
            source.body, None if "copies lose sums" in self.fake.faults else source.crc64nvme
        )
        self.answer(f"<CopyObjectResult><ETag>{source.etag}</ETag></CopyObjectResult>")

    def copied(self) -> Kept:
        return self.fake.objects[unquote(self.headers["x-amz-copy-source"]).lstrip("/").removeprefix(f"{BUCKET}/")]

    def CreateMultipartUpload(self) -> None:  # noqa: N802
        name = f"upload-{len(self.fake.uploads)}"
        self.fake.uploads[name] = (self.key, {})
        self.answer(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")

    def PutUploadPart(self) -> None:  # noqa: N802
        self.fake.uploads[self.query["uploadId"]][1][int(self.query["partNumber"])] = self.body
        self.answer(ETag='"part"')

    def UploadPartCopy(self) -> None:  # noqa: N802
        self.fake.uploads[self.query["uploadId"]][1][int(self.query["partNumber"])] = self.copied().body
        self.answer('<CopyPartResult><ETag>"part"</ETag></CopyPartResult>')

    def CompleteMultipartUpload(self) -> None:  # noqa: N802
        _, parts = self.fake.uploads.pop(self.query["uploadId"])
        body = b"".join(parts[number] for number in sorted(parts))
        kept = Kept(body, f"{sum_of(body)}-{len(parts)}" if "sums of parts" in self.fake.faults else sum_of(body))
        self.fake.objects[self.key] = kept
        self.answer(f"<CompleteMultipartUploadResult><ETag>{kept.etag}</ETag></CompleteMultipartUploadResult>")

    def AbortMultipartUpload(self) -> None:  # noqa: N802
        self.fake.uploads.pop(self.query["uploadId"], None)
        self.answer(status=204)

    def GetObject(self) -> None:  # noqa: N802
        there = self.fake.objects.get(self.key)
        if there is None and "has every key" in self.fake.faults:
            there = Kept(b"", sum_of(b""))
        if there is None or "reads nothing" in self.fake.faults:
            self.refuse(404, "NoSuchKey")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or "ignores ranges" in self.fake.faults:
            self.answer(there.body, ETag=there.etag)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(there.body)), len(there.body) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(there.body)}"}
        self.answer(there.body[first : last + 1], 206, ETag=there.etag, **span)

    def HeadObject(self) -> None:  # noqa: N802
        there = self.fake.objects.get(self.key)
        if there is None:
            self.refuse(404, "NoSuchKey")
            return
        apart = timedelta(hours=1 if "another clock" in self.fake.faults else 0)
        told = {"Last-Modified": format_datetime(there.at + apart, usegmt=True)}
        if there.crc64nvme and "x-amz-checksum-mode" in self.headers and "tells no sums" not in self.fake.faults:
            told["x-amz-checksum-crc64nvme"] = there.crc64nvme
        self.answer(there.body, ETag=there.etag, **told)

    def HeadBucket(self) -> None:  # noqa: N802
        self.answer()

    def ListObjectsV2(self) -> None:  # noqa: N802
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        found = [] if "lists late" in self.fake.faults else sorted(self.fake.objects)
        after = self.query.get("start-after", "")
        rests = {key: key.removeprefix(prefix) for key in found if key.startswith(prefix) and key > after}
        folded = delimiter is not None and "lists no folders" not in self.fake.faults
        folders = {rest.partition("/")[0] for rest in rests.values() if "/" in rest} if folded else set()
        entries = [self.entry(key) for key, rest in rests.items() if not (folded and "/" in rest)]
        entries += [f"<CommonPrefixes><Prefix>{prefix}{name}/</Prefix></CommonPrefixes>" for name in sorted(folders)]
        self.answer(f"<ListBucketResult>{''.join(entries)}</ListBucketResult>")

    def entry(self, key: str) -> str:
        there = self.fake.objects[key]
        told = {"Key": key, "Size": len(there.body), "ETag": there.etag, "LastModified": there.at.isoformat()}
        return f"<Contents>{''.join(f'<{name}>{value}</{name}>' for name, value in told.items())}</Contents>"

    def DeleteObject(self) -> None:  # noqa: N802
        if self.condition_lost(self.fake.objects.get(self.key)) and "deletes whatever is there" not in self.fake.faults:
            self.refuse(412, "PreconditionFailed")
            return
        if "keeps what is deleted" not in self.fake.faults:
            self.fake.objects.pop(self.key, None)
        self.answer(status=204)

    def refuse(self, status: int, code: str) -> None:
        self.answer(f"<Error><Code>{code}</Code><Message>as told</Message></Error>", status)

    def answer(self, body: str | bytes = b"", status: int = 200, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response_only(status)
        if "no Date" not in self.fake.faults:
            headers["Date"] = format_datetime(datetime.now(UTC), usegmt=True)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

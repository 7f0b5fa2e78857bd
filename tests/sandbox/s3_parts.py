"""A SeaweedFS that a test may stop, and a proxy before an S3 that takes headers out of what passes."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from model_release.environment import S3
from sandbox import s3
from sandbox.home import Home
from sandbox.settings import HOST, Settings, load_settings
from tests.sandbox.ports import free_ports
from tests.sandbox.releasing import await_true

#: What is of one connection alone, and not of the request.
OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}


@contextmanager
def seaweedfs(folder: Path) -> Iterator[tuple[S3, subprocess.Popen[bytes]]]:
    """Run a SeaweedFS of the test's own, on ports that nothing else takes; yields its S3 and its process."""
    home, settings = Home(folder), _with_free_ports(load_settings({}))
    home.create()
    s3.write_identities(home)
    keys = s3.pipeline_keys(home)
    command = s3.s3_command(Path(sys.prefix) / "bin" / "weed", home, settings)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, env=s3.s3_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        await_true(lambda: s3.is_ready(settings, home), "SeaweedFS is ready")
        s3.lay_out(settings, home)
        place = {"endpoint_url": s3.endpoint(settings), "bucket": s3.MODELS}
        yield S3.model_validate({**place, **vars(keys)}), process
    finally:
        process.kill()
        process.wait()
        s3.remove_sockets(settings)


def _with_free_ports(settings: Settings) -> Settings:
    names = settings.ports_of("s3")
    ports = dict(zip(names, free_ports(), strict=False))
    return settings.model_copy(update={"ports": settings.ports.model_copy(update=ports)})


@contextmanager
def without_headers(behind: S3, *dropped: str) -> Iterator[S3]:
    """Stand before an S3 that then never sees some headers of a request, as if it knew nothing of them."""
    credentials = Credentials(behind.access_key_id, behind.secret_access_key.get_secret_value())  # type: ignore[union-attr]
    target = urlsplit(str(behind.endpoint_url))
    left_out = {name.lower() for name in dropped} | OF_THE_CONNECTION | {"authorization", "x-amz-date"}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the client would wait 40 ms for the body of each answer

        def passed_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
            # What passes was signed with the headers that are gone, so it is signed anew.
            request = AWSRequest(self.command, f"{behind.endpoint_url}{self.path}", headers, body)
            S3SigV4Auth(credentials, "s3", behind.region).add_auth(request)
            connection = http.client.HTTPConnection(target.netloc, timeout=30)
            connection.request(self.command, self.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in OF_THE_CONNECTION | {"content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = passed_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield behind.model_copy(update={"endpoint_url": f"http://{HOST}:{server.server_port}"})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

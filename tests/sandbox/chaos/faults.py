"""An HTTP proxy before S3 that answers one chosen request with a fault, and passes on all others."""

from __future__ import annotations

import http.client
import http.server
import socket
import struct
import threading
from collections.abc import Callable

KINDS = ("reset before", "reset after", "slow down")
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyS3:
    """
    S3 behind a wire that fails once.

    `reset before`: the connection is cut and S3 never saw the request. `reset after`: S3 did what was asked, the answer
    is lost. `slow down`: 503, and S3 never saw it. `before` is told of each request, before S3 sees it.
    """

    def __init__(self, endpoint_url: str, before: Callable[[str, str], object] = lambda verb, path: None) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.wire = self  # type: ignore[attr-defined]
        self.before = before
        self.target = endpoint_url.removeprefix("http://")
        self._lock = threading.Lock()
        self._kind, self._at, self.requests, self.struck = "", -1, 0, 0
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def strike(self, kind: str, at: int) -> None:
        """Have the `at`th request from now fail."""
        with self._lock:
            self._kind, self._at, self.requests = kind, at, 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self) -> str | None:
        """Count a request and return its fault."""
        with self._lock:
            mine = self.requests == self._at
            self.requests += 1
            self.struck += mine
            return self._kind if mine else None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        return True  # S3's own answer decides

    def _pass_on(self) -> None:
        wire: FaultyS3 = self.server.wire  # type: ignore[attr-defined]
        wire.before(self.command, self.path)
        fault = wire.fault()
        if self.headers.get("Expect", "").lower() == "100-continue" and fault is None:
            self.send_response_only(100)
            self.end_headers()
        if fault == "reset before":
            self._cut()
            return
        if fault == "slow down":
            self.close_connection = True
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        body = self._body()
        upstream = http.client.HTTPConnection(wire.target, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers, encode_chunked=False)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault == "reset after":
            self._cut()
            return
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
        length = answer.getheader("content-length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, content, length)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the names that the base class calls

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        raw = b""
        while True:
            line = self.rfile.readline()
            chunk = self.rfile.read(int(line.split(b";")[0], 16) + 2)
            raw += line + chunk
            if line.strip().split(b";")[0] == b"0":
                return raw

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _cut(self) -> None:
        """End the connection by a reset, not by a farewell."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


_OWN = {"content-length", "transfer-encoding", "connection"}

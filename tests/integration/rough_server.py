"""An S3 server that throttles, takes its time, and lists late what was written: a proxy before another one."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_LISTED = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)
_PASSED_ON = {"content-type", "etag", "last-modified"}


class Rough(ThreadingHTTPServer):
    """Answers as the server at a port of this machine does, but roughly.

    Attributes:
        throttled: share of the requests that are answered with 503 SlowDown.
        slow: seconds that every request takes longer.
        lag: seconds after which listings show an object that was created.
        counts: what was done so far: ``throttled`` requests, ``late`` objects in listings, and all requests by kind.
    """

    daemon_threads = True

    def __init__(self, behind: int, *, throttled: float = 0.0, slow: float = 0.0, lag: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.throttled, self.slow, self.lag = behind, throttled, slow, lag
        self.counts: Counter[str] = Counter()
        self.created: dict[str, float] = {}
        self._draws = random.Random(17)
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def throttles(self, kind: str) -> bool:
        """Whether this request is answered with 503."""
        with self._lock:
            refused = self._draws.random() < self.throttled
            self.counts["throttled" if refused else kind] += 1
        return refused

    def listed(self, body: bytes) -> bytes:
        """A listing without what was created just now."""
        young = time.monotonic() - self.lag

        def shown(found: re.Match[bytes]) -> bytes:
            if self.created.get(found[1].decode(), 0.0) <= young:
                return found[0]
            self.counts["late"] += 1
            return b""

        return _LISTED.sub(shown, body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Rough

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        rough, data = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(rough.slow)
        if rough.throttles(self.command):
            self._answer(503, {}, _SLOW_DOWN)
            return
        connection = http.client.HTTPConnection("127.0.0.1", rough.behind)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, data, dict(self.headers))
            answer = connection.getresponse()
            body, size = answer.read(), answer.headers.get("Content-Length", "0")
        key = unquote(urlsplit(self.path).path).removeprefix("/bucket/")
        if self.command == "PUT" and answer.status == 200:
            rough.created.setdefault(key, time.monotonic())
        if self.command == "GET" and "list-type" in self.path:
            body = rough.listed(body)
        headers = {name: value for name, value in answer.headers.items() if name.lower() in _PASSED_ON}
        self._answer(answer.status, headers, body, size if self.command == "HEAD" else None)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, size: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on


@contextlib.contextmanager
def rough(behind: int, **how: Any) -> Iterator[Rough]:
    """Such a server before the one at the port ``behind``."""
    server = Rough(behind, **how)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

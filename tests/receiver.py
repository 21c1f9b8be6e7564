"""An HTTP server on this machine that keeps what is posted to it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What a server received: documents in order, and their headers; ``answers`` is the code that it gives."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.types: list[str | None] = []
        self.answers = 204
        self.hold = threading.Event()
        self.hold.set()
        self.url = ""

    @property
    def events(self) -> list[str]:
        return [document["event"] for document in self.documents]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A server on a free port; a request waits until ``hold`` is set."""
    got = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.hold.wait(30)
            got.documents.append(json.loads(body))
            got.paths.append(self.path)
            got.types.append(self.headers["Content-Type"])
            self.send_response(got.answers)
            if got.answers == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    got.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield got
    finally:
        got.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()

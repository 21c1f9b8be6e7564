"""An S3 server in a process of its own, spoken to over the wire, behind a door that can be closed."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.request import Request, urlopen

from pyarrow.fs import S3FileSystem

_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""


class Door:
    """Passes connections on to a port of this machine, unless it is closed.

    Attributes:
        port: where it listens.
        open: whether it lets anybody pass; closing it ends no connection that passed.
        turned_away: how many it did not let pass, or ended.
    """

    def __init__(self, behind: int) -> None:
        self._behind, self.open, self.turned_away = behind, True, 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self._listening:
            while not self._over.is_set():
                if select.select([self._listening], [], [], 0.1)[0]:
                    client = self._listening.accept()[0]
                    threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._behind)) as server:
            other = {client: server, server: client}
            while not self._over.is_set():
                ready = select.select([client, server], [], [], 0.1)[0]
                if not self.open:
                    self.turned_away += 1
                    return
                for side in ready:
                    with contextlib.suppress(OSError):
                        if data := side.recv(1 << 16):
                            other[side].sendall(data)
                            continue
                    return

    def close(self) -> None:
        self._over.set()


class ObjectServer:
    """A running server.

    Attributes:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        system = S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        system.create_dir("bucket")

    def address(self, prefix: str, port: int | None = None, bucket: str = "bucket") -> str:
        """Of a prefix; through the door at ``port``, if any."""
        where = f"endpoint_override=http://127.0.0.1:{port or self.port}&region=us-east-1&scheme=http"
        return f"s3://{bucket}/{prefix}?{where}"

    def let_in(self, anybody: bool) -> None:
        """Whether requests pass whoever makes them, as at the start, or nobody's do."""
        body = b"inf" if anybody else b"0"
        address = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
        with urlopen(Request(address, data=body, headers={"Content-Type": "text/plain"})) as answer:
            assert answer.status == 200


@contextlib.contextmanager
def serving() -> Iterator[ObjectServer]:
    """A server with an empty bucket ``bucket``; what it holds is gone with it."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield ObjectServer(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()

"""S3 servers in processes of their own that count the requests they answer, by kind: moto, and a small one of ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=True)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
_REQUEST = re.compile(r'"([A-Z]+) /bucket(\S*) HTTP')


class Counted:
    """A running moto server with the bucket ``bucket``."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log, self._read = port, log, 0
        with urlopen(Request(f"http://127.0.0.1:{port}/bucket", method="PUT")):
            pass
        self.requests()

    def address(self, prefix: str) -> str:
        """The address of a store."""
        return f"s3://bucket/{prefix}?endpoint_override=http://127.0.0.1:{self.port}&region=us-east-1&scheme=http"

    def requests(self) -> Counter[str]:
        """Requests since the last call: PUT, GET, HEAD, DELETE, POST (several keys removed) and LIST."""
        with open(self._log) as log:
            log.seek(self._read)
            found = _REQUEST.findall(log.read())
            self._read = log.tell()
        return Counter("LIST" if kind == "GET" and rest.startswith("?") else kind for kind, rest in found)


class Small:
    """The running server of ``small_s3.py``."""

    def __init__(self, port: int) -> None:
        self.port = port

    def address(self, prefix: str) -> str:
        """The address of a store."""
        return f"s3://bucket/{prefix}?endpoint_override=http://127.0.0.1:{self.port}&region=us-east-1&scheme=http"

    def requests(self) -> Counter[str]:
        """Requests since the last call, by kind."""
        with urlopen(f"http://127.0.0.1:{self.port}/counts") as answer:
            return Counter(json.load(answer))


def _set_keys() -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


@contextlib.contextmanager
def small_server(filling: Path, delay: float) -> Iterator[Small]:
    """The small server, filled, every request ``delay`` seconds late; sets the keys that clients need."""
    _set_keys()
    command = [sys.executable, str(Path(__file__).with_name("small_s3.py")), str(filling), str(delay)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield Small(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def counted_server() -> Iterator[Counted]:
    """The server; sets the keys that clients need, in this process and those that it starts."""
    _set_keys()
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            port = next(int(line) for line in process.stdout if line.strip().isdigit())  # after what moto says
            yield Counted(port, Path(log.name))
        finally:
            process.kill()
            process.communicate()

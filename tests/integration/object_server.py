"""An S3 server in a process of its own, spoken to over the wire, behind a door that can be closed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.objects.store import open_place
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.dying import Outcome, outcome

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
        with urlopen(Request(f"http://127.0.0.1:{port}/bucket", method="PUT")) as answer:
            assert answer.status == 200

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


class Place:
    """A store of its own on the server, and the commands of a user on one machine or another."""

    def __init__(self, server: ObjectServer, folder: Path, data_dir: Path) -> None:
        self.server, self.folder, self.data_dir = server, folder, data_dir
        self.address = server.address(folder.name)

    def on(self, machine: str) -> Store:
        """The store as that machine sees it."""
        os.environ["RT_SCALE_MIRROR"] = str(self.folder / machine)
        return open_place(self.address)

    def run(self, document: dict[str, Any]) -> list[str]:
        path = self.folder / f"{abs(hash(json.dumps(document)))}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        where = ["--store", self.address, "--data-dir", str(self.data_dir), "--device", "cpu"]
        return ["run", str(path), *where, "--threads", "1"]


def alone(folder: Path, data_dir: Path, spec: RunSpec) -> RunDir:
    """The run in a folder, undisturbed."""
    store = Store(folder)
    run(spec, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    return store.run(spec)


def whole(store: Store, spec: RunSpec) -> Outcome:
    """The run's outcome, brought from the store."""
    run_dir = store.run(spec)
    run_dir.refresh()
    result = run_dir.result()
    assert result is not None
    run_dir.checkpoints.read(result.steps, lambda folder: None)
    return outcome(run_dir)

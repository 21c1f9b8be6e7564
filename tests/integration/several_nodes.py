"""A Ray of several nodes on this machine, in a process of its own that obeys lines on its standard input.

``add WHAT``: a node more, whose id is the answer; WHAT is its CPUs, or Ray's options for it as JSON. ``remove NODE``:
all processes of a node are killed. ``drain NODE``: it is told that it is preempted. ``clear``: all nodes but the head
are killed, and the head knows it. ``behead``: so is the head.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANGS = 480.0
"""Seconds after which an answer will not come any more."""
NOTICED = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "2"}
"""A node that is gone is known to be gone after 2 s, not 13 s; one that is slow to answer still has 10 s for that."""


def obey() -> None:
    """Read lines until there are no more."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), dict[str, Any]()
    # As of another Ray that this machine has had: nothing may take it for this one.
    Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").write_text("127.0.0.1:9")
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, what = line.strip().partition(" ")
        answer = "done"
        if word == "add":
            node = cluster.add_node(**(json.loads(what) if what.startswith("{") else {"num_cpus": int(what)}))
            answer = node.node_id
            nodes[answer] = node
        elif word == "remove":
            cluster.remove_node(nodes.pop(what), allow_graceful=False)
        elif word == "drain":
            client = GcsClient(address=cluster.address)
            accepted, why = client.drain_node(what, 2, "preempted by a test", 2**62)
            answer = "done" if accepted else why
        elif word in ("clear", "behead"):
            for each in list(cluster.worker_nodes):
                cluster.remove_node(each, allow_graceful=False)
            nodes.clear()
        if word == "clear":
            cluster.wait_for_nodes()
        elif word == "behead":
            assert cluster.head_node is not None
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        print(answer, flush=True)


class Nodes:
    """A running cluster.

    Attributes:
        address: of its head.
        environment: what a driver needs to join it.
        whole: whether it has a head, and answers.
    """

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str], log: Path) -> None:
        self._process, self.environment, self._log, self.whole = process, environment, log, True
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        hangs = threading.Timer(HANGS, self._process.kill)
        hangs.start()
        answer = self._process.stdout.readline().strip()
        hangs.cancel()
        if not answer:
            self.whole = False
            self._process.kill()
            raise AssertionError(self._log.read_text())
        return answer

    def __call__(self, *words: object) -> str:
        """Say a line; the answer."""
        assert self._process.stdin is not None
        self.whole = self.whole and words != ("behead",)
        print(*words, file=self._process.stdin, flush=True)
        return self._answer()


class Clusters:
    """A cluster that tests use one after the other; it takes much longer to start than what they do with it.

    Args:
        start: as the fixture of that name.
        folder: makes a folder for a cluster's token and Ray's files; its name must be short, as it has sockets.
    """

    def __init__(self, start: Callable[..., subprocess.Popen[str]], folder: Callable[[], Path]) -> None:
        self._start, self._folder = start, folder
        self._nodes: Nodes | None = None

    def __call__(self) -> Nodes:
        """The cluster: a head without CPUs, and no nodes; a new one where that of the last test has lost its head."""
        if self._nodes is None or not self._nodes.whole:
            self._nodes = self._begin(self._folder())
        return self._nodes

    def _begin(self, folder: Path) -> Nodes:
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        token.chmod(0o600)
        environment = {**os.environ, **NOTICED, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        environment["RAY_TMPDIR"] = str(folder)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with (folder / "log").open("w") as log:  # a pipe that nobody reads would fill
            given: dict[str, Any] = {"env": environment, "stdin": subprocess.PIPE, "stderr": log}
            process = self._start(program=[sys.executable, __file__], **given)
        return Nodes(process, environment, folder / "log")

    def clear(self) -> None:
        """Take its nodes away."""
        if self._nodes is not None and self._nodes.whole:
            self._nodes("clear")


if __name__ == "__main__":
    obey()

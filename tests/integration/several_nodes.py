"""A Ray of several nodes on this machine, in a process of its own that obeys lines on its standard input.

``add CPUS``: a node more, whose id is the answer. ``remove NODE``: all processes of a node are killed. ``drain NODE``:
it is told that it is preempted. ``behead``: the head's processes are killed. ``head PORT``: there is a new head.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def obey() -> None:
    """Read lines until there are no more."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), dict[str, Any]()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, what = line.strip().partition(" ")
        answer = "done"
        if word == "add":
            node = cluster.add_node(num_cpus=int(what))
            answer = node.node_id
            nodes[answer] = node
        elif word == "remove":
            cluster.remove_node(nodes.pop(what), allow_graceful=False)
        elif word == "drain":
            client = GcsClient(address=cluster.address)
            accepted, why = client.drain_node(what, 2, "preempted by a test", 2**62)
            answer = "done" if accepted else why
        elif word == "behead":
            for each in list(cluster.worker_nodes):
                cluster.remove_node(each, allow_graceful=False)
            assert cluster.head_node is not None
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            answer = cluster.address
        print(answer, flush=True)


class Nodes:
    """A running cluster.

    Attributes:
        address: of its head.
        environment: what a driver needs to join it.
    """

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self._process, self.environment = process, environment
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            self._process.kill()
            raise AssertionError(self._process.communicate())
        return answer

    def __call__(self, *words: object) -> str:
        """Say a line; the answer."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._answer()


def begin(start: Callable[..., subprocess.Popen[str]], folder: Path) -> Nodes:
    """A cluster of a head without CPUs, whose token is in ``folder``."""
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = start(program=[sys.executable, __file__], env=environment, stdin=subprocess.PIPE)
    return Nodes(process, environment)


if __name__ == "__main__":
    obey()

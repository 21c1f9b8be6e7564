"""Processes of ``rt-scale run`` that have already imported what they need: copies of a process that did so once.

The imports take some four seconds of a core, in which a process does nothing that a test of kills and signals is about.
They are processes like others: children of the test, in sessions of their own, with pipes, that end as any Python does.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

SUBREAPER = 36
"""prctl's option: a process whose parent has ended becomes our child."""
IMPORTS = (
    *("torch._dynamo", "torchvision.transforms.v2", "sklearn.datasets", "rt_scale.cli"),
    *("rt_scale.experiments.runner", "rt_scale.progress.bars", "rt_scale.tensorboard.writer"),
)
MAIN = "from rt_scale.cli import main\nmain()\n"


class Copied(subprocess.Popen):  # type: ignore[type-arg]
    """A process that executes the Python code ``args[0]`` with ``sys.argv`` of the rest, and imports nothing slow."""

    def _execute_child(self, args: list[str], *given: Any) -> None:
        # Python's own order: executable, preexec_fn, close_fds, pass_fds, cwd, env, ... and the six ends of the pipes.
        pipes = given[9:15]
        ends = [own if end == -1 else end for own, end in zip((0, 1, 2), (pipes[0], pipes[3], pipes[5]), strict=True)]
        order = {"code": args[0], "argv": ["rt-scale", *args[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}
        original = _original()
        prctl = ctypes.CDLL(None).prctl
        prctl(SUBREAPER, 1)
        try:
            socket.send_fds(original, [json.dumps(order).encode()], ends)
            self.pid = int(original.recv(64))
        finally:
            prctl(SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@functools.cache
def _original() -> socket.socket:
    """The way to the process that is copied; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "tests.integration.warm", str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
    theirs.close()
    return ours


def _serve(orders: socket.socket) -> None:
    """Make copies until the tests have ended; returns in the copies only."""
    for name in IMPORTS:
        __import__(name)
    while True:
        text, (*ends,), _, _ = socket.recv_fds(orders, 2**18, 3)
        if not text:
            sys.exit()
        told, tell = os.pipe()
        if between := os.fork():
            # The one in between ends at once, and the copy is the child of the tests.
            os.waitpid(between, 0)
            orders.send(os.read(told, 64))
            for each in (told, tell, *ends):
                os.close(each)
        elif copy := os.fork():
            os.write(tell, str(copy).encode())
            os._exit(0)
        else:
            for each in (told, tell, orders.fileno()):
                os.close(each)
            _become(json.loads(text), ends)


def _become(order: dict[str, Any], ends: list[int]) -> None:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for own, end in enumerate(ends):
        os.dup2(end, own)
        os.close(end)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv[:] = order["argv"]
    exec(order["code"], {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.tensorboard.server import serve


def test_a_port_in_use_is_bad_input(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"{port}.*--port"):
            serve(tmp_path, print, title="demo", port=port)


SWALLOWED = """
import contextlib, os, signal, sys
from pathlib import Path
from rt_scale.tensorboard.server import serve

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
calls = []
def end():
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.Signals[sys.argv[2]])
def ready(address):
    print(address)
    if sys.argv[3] == "told":
        end()
def refresh():
    calls.append(1)
    if len(calls) == 3:
        sys.exit("it goes on")
    end()
serve(Path(sys.argv[1]), ready, title="demo", port=0, refresh=refresh, interval=0.01)
print("ended after", len(calls))
"""


@pytest.mark.parametrize(
    ("name", "when", "refreshes"),
    [("SIGINT", "refreshed", 1), ("SIGTERM", "refreshed", 1), ("SIGHUP", "refreshed", 1), ("SIGINT", "told", 0)],
)
def test_it_ends_even_where_an_exception_would_be_swallowed(
    tmp_path: Path, name: str, when: str, refreshes: int
) -> None:
    command = [sys.executable, "-c", SWALLOWED, str(tmp_path), name, when]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    address, last = ended.stdout.splitlines()
    assert address.startswith("http://localhost:")
    assert last == f"ended after {refreshes}"

"""The command line as a user starts it: in a process of its own, or, where that adds nothing, in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rt_scale.cli import main
from rt_scale.data.prepare import open_prepared
from tests.integration import several_nodes, warm
from tests.integration.dying import DIES

PROGRAM = str(Path(sys.executable).with_name("rt-scale"))
TIMEOUT = 480.0
"""Seconds after which something hangs."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refusal(self, code: int = 2) -> str:
        """The one paragraph on stderr of a command that refused."""
        assert self.code == code, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        assert self.err.startswith("rt-scale: ")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("rt-scale: ").strip()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs ``rt-scale`` with arguments in this process, through its real entry point."""

    def call(*arguments: object) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["rt-scale", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        out, err = capfd.readouterr()
        return Ended(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return call


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs, those of a single run as :mod:`warm` copies; what is left of them is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, program: list[str] | None = None, **options: Any) -> subprocess.Popen[str]:
        words, pipes = [*map(str, arguments)], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[str]
        if "run" in words[:2] and not options and program in (None, DIES):
            process = warm.Copied([DIES[-1] if program else warm.MAIN, *words], text=True, **pipes)
        else:
            given = {**pipes, "preexec_fn": handle_signals, **options}
            process = subprocess.Popen([*(program or [PROGRAM]), *words], text=True, start_new_session=True, **given)
        started.append(process)
        return process

    try:
        yield begin
    finally:
        _end(started)


def handle_signals() -> None:
    """React to signals as a process that is typed does, also where the tests run under nohup or in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _end(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
        for pid in session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def session(leader: int) -> list[int]:
    """The living processes of the session that process ``leader`` began, itself included."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] not in "ZX":
                    found.append(int(folder.name))
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``rt-scale`` (or another program) in a session of its own; what is left of it is killed afterwards."""
    with starting() as begin:
        yield begin


@pytest.fixture
def living() -> Callable[[int], list[int]]:
    """Tells which processes of a session are alive, by the process that began it."""
    return session


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], object], subprocess.Popen[str]], None]:
    """Waits until a condition holds; fails where the process ends before, or never gets there."""

    def wait(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "waited for too long"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits."""
    folder = tmp_path_factory.mktemp("prepared")
    open_prepared("digits", folder)
    return folder


@pytest.fixture(scope="module")
def clusters() -> Iterator[several_nodes.Clusters]:
    """A Ray of several nodes for all tests of a module."""
    with contextlib.ExitStack() as folders, starting() as begin:

        def folder() -> Path:
            return Path(folders.enter_context(TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)))

        yield several_nodes.Clusters(begin, folder)


@pytest.fixture
def nodes(clusters: several_nodes.Clusters) -> Iterator[several_nodes.Nodes]:
    """A Ray of several nodes, which are gone with the test."""
    yield clusters()
    clusters.clear()

"""In processes of their own, as what is tested are the standard streams of one."""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import pty
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from rt_scale.ray_backend.output import console_on, output_to
from rt_scale.spec.errors import InputError

START = """
import ctypes, logging, os, subprocess, sys
from pathlib import Path
from rich.console import Console
from rich.text import Text
from rt_scale.ray_backend.output import output_to, console_on
log = Path(sys.argv[1])
early = Console()
logging.basicConfig(format="%(message)s")
"""
NOISE = """
os.write(1, b"core to 1\\n")
os.write(2, b"[2026-11-21 E 12] core_worker to 2\\n")
ctypes.CDLL(None).puts(b"printf of C")
print("python to 1")
print("python to 2", file=sys.stderr)
early.print("an early console")
logging.warning("a logger")
subprocess.run(["sh", "-c", "echo a child; echo a child to 2 >&2"])
"""
HEARD = {
    "core to 1",
    "[2026-11-21 E 12] core_worker to 2",
    "printf of C",
    "python to 1",
    "python to 2",
    "an early console",
    "a logger",
    "a child",
    "a child to 2",
}


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip().splitlines())


def program(inside: str, after: str = "", before: str = "") -> list[str]:
    code = f"{START}\n{before}\nwith output_to(log) as out:\n{indented(inside)}\n{after}\n"
    return [sys.executable, "-c", code]


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""What streams do unless they are told otherwise."""


def ran(command: list[str], log: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, str(log)], capture_output=True, text=True, timeout=60, check=False, env=BUFFERED)


def test_whatever_is_written_to_the_standard_streams_is_in_the_file_alone(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "ray.log"
    inside = f"{NOISE}\nconsole_on(out).print('[b]the view[/b]')"
    done = ran(program(inside, "print('after'); os.write(2, b'error after\\n')"), log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[b]the view[/b]\nafter\n", "error after\n")
    assert sorted(log.read_text().splitlines()) == sorted(HEARD)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_what_was_printed_before_is_not_in_the_file_and_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    before = "sys.stdout.write('before, '); ctypes.CDLL(None).printf(b'C before, ')"
    done = ran(program("out.write('the view, ')", "print('after')", before), log)
    # Python and C buffer on their own, so that either may be first of what was before.
    assert done.stdout.endswith("the view, after\n")
    assert sorted(done.stdout.split(", ")[:2]) == ["C before", "before"]
    assert log.read_text() == ""


def test_an_error_is_told_where_errors_are_told(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    done = ran(program(f"{NOISE}\nraise ValueError('from inside')"), log)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: from inside\n")
    assert set(log.read_text().splitlines()) == HEARD


def test_the_file_of_an_earlier_driver_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    for text in ("first", "second"):
        assert ran(program(f"print('{text}')"), log).returncode == 0
    assert log.read_text() == "first\nsecond\n"


@pytest.mark.parametrize(
    ("closed", "out", "err"), [(">&-", "", "after 2\n"), ("2>&-", "view\nafter 1\n", ""), (">&- 2>&-", "", "")]
)
def test_a_closed_stream_is_closed_again_afterwards(tmp_path: Path, closed: str, out: str, err: str) -> None:
    log = tmp_path / "ray.log"
    after = """
for number in (1, 2):
    try:
        os.write(number, b"after %d\\n" % number)
    except OSError:
        Path(f"{log}.{number}").touch()
"""
    command = program("os.write(1, b'one\\n'); os.write(2, b'two\\n'); print('view', file=out)", after)
    done = ran(["sh", "-c", f'exec "$@" {closed}', "sh", *command], log)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)
    assert log.read_text() == "one\ntwo\n"
    shut = {number for number in (1, 2) if Path(f"{log}.{number}").exists()}
    assert shut == {number for number, text in ((1, out), (2, err)) if not text}


@pytest.mark.parametrize("write", ["out.write", "console.print"])
def test_a_reader_that_is_gone_spoils_nothing_of_the_rest(tmp_path: Path, write: str) -> None:
    log = tmp_path / "ray.log"
    inside = f"""
console = console_on(out)
os.write(2, b"two\\n")
{write}("view")
out.flush()
console.print("once more, on the way out")
print(1)
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*program(inside, "os.write(2, b'error after')"), str(log)],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        env=BUFFERED,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"error after")
    assert log.read_text() == "two\n1\n"


def in_terminal(command: list[str], log: Path, rows: int, columns: int) -> str:
    """What a terminal shows whose size standard input does not tell."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in BUFFERED.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*command, str(log)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 0, seen
    return seen.decode()


def test_a_terminal_is_still_one(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    inside = f"""
{NOISE}
console = console_on(out)
print(out.isatty(), console.is_terminal, sys.stdout.isatty(), *console.size, file=out)
console.print(Text('view', style='red'))
import fcntl, struct, termios
fcntl.ioctl(out.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 5, 33, 0, 0))
print(*console.size, file=out)
os.environ["COLUMNS"] = "44"
print(*console_on(out).size, file=out)
console.size = (20, 30)
print(*console.size, file=out)
"""
    seen = in_terminal(program(inside, "print(sys.stdout.isatty())"), log, 17, 93)
    sizes = ["33 5", "44 5", "20 30"]
    assert seen.split("\r\n") == ["True True False 93 17", "\x1b[31mview\x1b[0m", *sizes, "True", ""]
    assert set(log.read_text().splitlines()) == HEARD


def test_the_live_view_is_drawn_in_the_terminal_alone(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    inside = f"""
from rt_scale.progress.terminal import SweepView
from rt_scale.scheduler.job import RunReport
with SweepView(console_on(out), 2, 0, log) as view:
    {"; ".join(NOISE.strip().splitlines())}
    view.running("alpha=1", RunReport(step=1, steps=4, stage="training", where="cpu"))
    import time; time.sleep(0.3)
    view.tick()
    view.finished("alpha=1", None, {{"probe/student/linear": 0.5}})
"""
    seen = in_terminal(program(inside), log, 20, 120)
    assert f"Ray's log: {log}" in "".join(seen.split("\r\n")[0:2])
    assert "25 %" in seen
    assert "[1/2] alpha=1  linear 50.0  " in seen
    assert not any(text in seen for text in HEARD)
    assert set(log.read_text().splitlines()) == HEARD


def test_a_character_that_the_terminal_does_not_know_is_no_error(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    command = ["env", "PYTHONIOENCODING=ascii", *program("print('\\u03b1=1', file=out)")]
    assert ran(command, log).stdout == "\\u03b1=1\n"


def test_it_can_be_entered_again_within_itself(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    inside = (
        "with output_to(Path(f'{log}.2')) as inner: print('deep'); os.write(inner.fileno(), b'mid\\n')\nprint('low')"
    )
    done = ran(program(inside, "print('top')"), log)
    assert (done.stdout, log.read_text(), Path(f"{log}.2").read_text()) == ("top\n", "mid\nlow\n", "deep\n")


def test_no_descriptor_is_left_open_or_inherited(tmp_path: Path) -> None:
    inside = "inner = subprocess.check_output(['ls', '/proc/self/fd'], text=True, close_fds=False).split()"
    after = "print(len(inner), len(os.listdir('/proc/self/fd')) - had)"
    done = ran(program(inside, after, "had = len(os.listdir('/proc/self/fd'))"), tmp_path / "ray.log")
    assert done.stdout == "4 0\n"  # three standard streams, and the folder that is listed


def test_a_file_that_cannot_be_written_is_a_refusal_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    refusal = pytest.raises(InputError, match=r"log of Ray cannot be written to '.*file/ray\.log' \(")
    with refusal, output_to(tmp_path / "file" / "ray.log"):
        raise AssertionError
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"


def test_captured_streams_are_captured_again_afterwards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "ray.log"
    os.write(2, b"before ")
    with output_to(log) as out:
        os.write(1, b"to 1, ")
        os.write(2, b"to 2")
        ctypes.CDLL(None).fflush(None)
        console_on(out).print("the view")
    os.write(1, b"after")
    os.write(2, b"after 2")
    print("again")
    assert log.read_text() == "to 1, to 2"
    assert capfd.readouterr() == ("the view\nafteragain\n", "before after 2")


def test_a_stream_that_python_put_in_place_is_what_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with output_to(tmp_path / "ray.log") as out:
        assert out is stream
        print("the view", file=out)
    assert stream.getvalue() == "the view\n"
    assert not stream.closed


def test_nothing_is_drawn_anew_in_a_pipe_that_wants_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not console_on(io.StringIO()).is_interactive

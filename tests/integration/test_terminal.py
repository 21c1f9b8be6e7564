"""A sweep in a real terminal of 80 columns and 24 lines: what is left on it, and what was above."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.integration.sweeping import SWEEP, Place

COLUMNS, LINES = 80, 24
LONG: dict[str, Any] = {
    "axes": {"encoder.name": ["convnet_8_2"], "student.alpha": [1e-10, 0.30001], "projector.out_dim": [16, 16384]},
    "base": {**SWEEP["base"], "data": {"name": "digits", "samples": 97}, "train": {"epochs": 3, "batch_size": 32}},
    "seeds": 1,
}  # fmt: skip


@dataclass
class Terminal:
    """What a program writes, as a terminal shows it.

    Attributes:
        pictures: what stood on it after each piece that was read.
    """

    number: int
    screen: pyte.HistoryScreen = field(default_factory=lambda: pyte.HistoryScreen(COLUMNS, LINES, history=2000))
    pictures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream = pyte.ByteStream(self.screen)
        fcntl.ioctl(self.number, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def watch(self, process: subprocess.Popen[str]) -> None:
        """Show what comes until the process ends; others may hold the terminal open for longer."""
        while select.select([self.number], [], [], 0.5)[0] or process.poll() is None:
            if not select.select([self.number], [], [], 0)[0]:
                continue
            try:
                self.stream.feed(os.read(self.number, 65536))
            except OSError:  # how Linux tells that the other end is closed
                break
            self.pictures.append("\n".join(self.screen.display))
        process.wait(240)

    @property
    def lines(self) -> list[str]:
        """All lines, those that scrolled away first."""
        gone = ("".join(line[column].data for column in range(COLUMNS)) for line in self.screen.history.top)
        return [line.rstrip() for line in (*gone, *self.screen.display)]


@pytest.fixture
def place(tmp_path: Path, data_dir: Path) -> Place:
    """Four short runs with long names."""
    place = Place(tmp_path, data_dir)
    place.change(LONG)
    return place


def test_a_sweep_in_a_small_terminal(place: Place, start: Callable[..., Any]) -> None:
    ours, theirs = pty.openpty()
    terminal = Terminal(ours)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = start(
        *place.command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    terminal.watch(process)
    os.close(ours)
    lines = terminal.lines
    text = "\n".join(lines)
    assert process.returncode == 0, text

    # While runs were executed they were shown, and nothing of that is left.
    assert any("running" in picture and " of 4 done" in picture for picture in terminal.pictures)
    assert "━" not in text
    assert not re.search(r"\d of 4 done|so far|to start", text)
    assert not terminal.screen.cursor.hidden

    # A line of a finished run is broken between words, and shows every value whole.
    ends = [at for at, line in enumerate(lines) if re.match(r"\[\d/4\] ", line)]
    assert [lines[at][1] for at in ends] == ["1", "2", "3", "4"]
    for at in ends:
        assert re.search(r"linear \d+\.\d \(teacher \d+\.\d\), knn \d+\.\d", told(lines[at : at + 3]))
    for point in place.points:
        for value in point.label.split(","):
            assert any(re.search(rf"(?<![\w.=]){re.escape(value)}(?![\w.])", line) for line in lines), value
        result = place.store.run(point.spec).result()
        assert result is not None
        assert f"linear {100 * result.last['probe/student/linear']:.1f} (teacher" in told(lines)

    # The tables are whole, and the last lines lead on.
    assert "…" not in text
    for value in ("1e-10", "0.30001", "16384"):
        assert re.search(rf"^ *(\S+ +)*{re.escape(value)} ", text, re.MULTILINE), value
    last = "".join("".join(lines[-8:]).split())  # the terminal itself breaks what is to be copied
    report = (place.store.sweep("small").report / "report.html").as_uri()
    assert last.endswith(f"open{report}{''.join(['rt-scale', 'board', *place.command[1:], '--open'])}")


def told(lines: list[str]) -> str:
    """The lines as one."""
    return " ".join(" ".join(lines).split())

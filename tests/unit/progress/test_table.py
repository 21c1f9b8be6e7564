from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rt_scale.progress.bars import Score
from rt_scale.progress.state import Pace, Row, shorten
from rt_scale.progress.terminal import LiveTable

NOTES = ["3 of 24 done", "10s so far", "best so far: linear 40.0", "waiting: the store"]


def row(label: str = "alpha=0.5,out_dim=64,seed=1", step: int = 50, where: str = "cuda:0") -> Row:
    pace = Pace(0)
    pace.reported(0, 0, 100)
    pace.reported(10, step, 100)
    scores = [Score("linear", 0.341, "linear 34.1 (teacher 30.2)"), Score("knn", 0.2, "knn 20.0")]
    return Row(label, pace, where, "training", step, 100, scores)


def drawn(rows: list[Row], width: int = 160, height: int = 20, notes: list[str] = NOTES, utf: bool = True) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8" if utf else "ascii")
    console = Console(file=file, width=width, height=height)
    console.print(LiveTable(rows, [Text(note) for note in notes], now=10))
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def below(*given: Any, **options: Any) -> list[str]:
    """What is drawn below the empty line."""
    first, *lines = drawn(*given, **options)
    assert first == ""
    return lines


def test_a_row_says_what_is_known_of_a_run() -> None:
    lines = below([row()])
    cells = ["alpha=0.5,out_dim=64,seed=1", "━━━━━━━━━━", "50 %", "5.0 steps/s", "10s left", "cuda:0", "training"]
    assert lines[0].split() == " ".join([*cells, "linear 34.1, knn 20.0"]).split()
    assert lines[1:] == NOTES


def test_a_run_of_which_nothing_is_known_yet_is_a_label() -> None:
    assert below([Row("alpha=1", Pace(10))]) == ["alpha=1", *NOTES]
    first, second, *_ = below([row("alpha=0.5"), Row("alpha=1", Pace(10), stage="starting")])
    assert second.split() == ["alpha=1", "starting"]
    assert second.index("starting") == first.index("training")


def test_columns_stand_below_each_other() -> None:
    lines = below([row("alpha=0.5"), row("alpha=[1e-10]", step=7, where="10.0.0.3 cuda:1")])
    assert lines[1].startswith("alpha=[1e-10]")
    for word in ("steps/s", "left", "training", "linear"):
        assert lines[0].index(word) == lines[1].index(word)


def test_a_bar_is_as_long_as_what_is_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=160, height=9)
    console.print(LiveTable([row(step=70)], [], now=10))
    assert isinstance(console.file, io.StringIO)
    assert "━" * 7 + "\x1b" in console.file.getvalue()
    assert "━" * 3 + "\x1b" in console.file.getvalue()


def test_a_terminal_without_lines_to_draw_gets_letters() -> None:
    assert "----------" in below([row()], utf=False)[0]


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 100, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = below([row(), row("数据=[很长的名字],seed=3" * 3)], width=width)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) == 2 + len(NOTES)


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    kept = [
        (word, [width for width in range(20, 140) if word in below([row()], width=width)[0]])
        for word in ("50 %", "10s left", "cuda:0", "linear 34.1, knn 20.0", "steps/s", "training", "━━━━━━━━━━")
    ]
    narrowest = [min(widths) for _, widths in kept]
    assert narrowest == sorted(narrowest)
    assert all(widths == list(range(min(widths), 140)) for _, widths in kept)


def test_a_wide_terminal_gives_labels_more_room() -> None:
    long = f"alpha=1e-10,{'x' * 60}=3"
    room = {width: len(below([row(long)], width=width)[0].split()[0]) for width in (50, 80, 120, 200)}
    assert room[50] >= 24
    assert 32 <= room[80] < 48 <= room[120]
    assert room[200] == len(long)


@pytest.mark.parametrize("height", range(1, 16))
def test_nothing_is_taller_than_the_terminal(height: int) -> None:
    lines = drawn([row(f"seed={seed}") for seed in range(10)], height=height)
    assert len(lines) == max(1, min(height - 1, 15))
    assert lines[-1] == NOTES[len(lines) - 1 if height <= 5 else -1]
    assert (lines[0] == "") == (height >= 16)
    seen = sum("seed=" in line for line in lines)
    hidden = [line for line in lines if line.startswith("and ")]
    assert hidden == ([] if seen == 10 or height <= 5 else [f"and {10 - seen} more"])


@pytest.mark.parametrize(
    ("width", "expected"),
    [(99, "alpha=1e-10,seed=3"), (18, "alpha=1e-10,seed=3"), (14, "alpha=...eed=3"), (5, "alpha"), (1, "a")],
)
def test_a_long_label_loses_its_middle(width: int, expected: str) -> None:
    assert shorten("alpha=1e-10,seed=3", width) == expected

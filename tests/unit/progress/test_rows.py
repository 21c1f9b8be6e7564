"""The rows that are drawn of running runs, on terminals of all sizes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from rt_scale.progress.bars import Score
from rt_scale.progress.rows import SweepProgress, shorten
from rt_scale.system.console import PlainConsole

NOTES = ["3 of 24 done", "10s so far", "best so far: linear 40.0", "waiting: the store"]
LABEL = "alpha=0.5,out_dim=64,seed=1"


def row(label: str = LABEL, step: int = 50, where: str = "cuda:0") -> dict[str, Any]:
    scores = [Score("linear", 0.341, "linear 34.1 (teacher 30.2)"), Score("knn", 0.2, "knn 20.0")]
    return {"label": label, "step": step, "where": where, "stage": "training", "scores": scores}


def drawn(
    rows: list[dict[str, Any]], width: int = 160, height: int = 20, notes: list[str] = NOTES, utf: bool = True,
    color: bool = False,
) -> list[str]:  # fmt: skip
    now = 0.0
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8" if utf else "ascii")
    system: Any = "truecolor" if color else None
    console = PlainConsole(file=file, width=width, height=height, force_terminal=color, color_system=system)
    progress = SweepProgress(console, lambda: now)
    progress.notes = lambda: [Text(note) for note in notes]
    tasks = [
        progress.add_task(each["label"], total=100, where=each["where"], stage=each["stage"], scores=each["scores"])
        for each in rows
    ]
    for part in (0.1, 1.0):
        now += 10
        for task, each in zip(tasks, rows, strict=True):
            progress.update(task, completed=part * each["step"])
    console.print(progress)
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def below(*given: Any, **options: Any) -> list[str]:
    """What is drawn below the empty line."""
    first, *lines = drawn(*given, **options)
    assert first == ""
    return lines


def test_a_row_says_what_is_known_of_a_run() -> None:
    lines = below([row()])
    cells = [LABEL, "━━━━━", "50 %", "4.5 steps/s", "12s left", "cuda:0", "training"]
    assert lines[0].split() == " ".join([*cells, "linear 34.1, knn 20.0"]).split()
    assert lines[1:] == NOTES


def test_columns_stand_below_each_other() -> None:
    lines = below([row("alpha=0.5"), row("alpha=[1e-10]", step=7, where="10.0.0.3 cuda:1")])
    assert lines[1].startswith("alpha=[1e-10]")
    for word in ("steps/s", "left", "training", "linear"):
        assert lines[0].index(word) == lines[1].index(word)


def test_a_bar_is_as_long_as_what_is_done() -> None:
    (line,) = (line for line in drawn([row(step=70)], color=True) if "━" in line)
    assert "━" * 7 + "\x1b" in line
    assert "━" * 2 + "\x1b" in line


def test_a_terminal_without_lines_to_draw_gets_letters() -> None:
    assert "-----" in below([row()], utf=False)[0]


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 100, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = below([row(), row("数据=[很长的名字],seed=3" * 3)], width=width, height=500)
    assert max(map(cell_len, lines)) <= width
    assert "".join("".join(lines).split()).count("seed=3") == 3


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    kept = [
        (word, [width for width in range(20, 150) if word in below([row()], width=width)[0]])
        for word in ("50 %", "12s left", "cuda:0", "linear 34.1, knn 20.0", "steps/s", "training", "━━━━━")
    ]
    narrowest = [min(widths) for _, widths in kept]
    assert narrowest == sorted(narrowest)
    assert all(widths == list(range(min(widths), 150)) for _, widths in kept)


def test_a_label_is_never_shortened() -> None:
    """It takes more lines, between its values where they fit a line."""
    label = f"parts=wn/lb/fn/wn/l/fn,optimizer={'x' * 15},alpha=1e-10,seed=3"
    for width in (24, 40, 60, 80, 120, 200):
        lines = below([row(label), row()], width=width)
        beside = [lines[0].index(cell) for cell in ("50 %", "12s left", "cuda:0") if cell in lines[0]]
        cells = [line[: min(beside, default=width)].strip() for line in lines[: -len(NOTES)]]
        assert "".join(cells).startswith(label)
        if width >= 80:
            assert all(any(value in cell for cell in cells) for value in label.split(","))


def test_a_long_note_is_broken_between_words() -> None:
    lines = below([], width=30, notes=["best so far: linear 20.6 (teacher 18.1)  alpha=0.5,out_dim=64,seed=1"])
    assert lines == ["best so far: linear 20.6", "  (teacher 18.1)", "  alpha=0.5,out_dim=64,seed=1"]


def test_rows_of_several_lines_leave_room_for_the_others() -> None:
    rows = [row(f"parts=wn/lb/fn/wn/l/fn,{'y' * 30},seed={seed}") for seed in range(4)]
    for height in range(1, 30):
        lines = drawn(rows, width=60, height=height)
        assert len(lines) <= max(1, height - 1)
        seen, hidden = sum("seed=" in line for line in lines), [line for line in lines if line.startswith("and ")]
        assert hidden == ([] if seen == 4 or height <= 5 else [f"and {4 - seen} more"])


@pytest.mark.parametrize("height", range(1, 16))
def test_nothing_is_taller_than_the_terminal(height: int) -> None:
    lines = drawn([row(f"seed={seed}") for seed in range(10)], height=height)
    assert len(lines) == max(1, min(height - 1, 15))
    assert lines[-1] == NOTES[len(lines) - 1 if height <= 5 else -1]
    seen = sum("seed=" in line for line in lines)
    hidden = [line for line in lines if line.startswith("and ")]
    assert hidden == ([] if seen == 10 or height <= 5 else [f"and {10 - seen} more"])


@pytest.mark.parametrize(
    ("width", "expected"),
    [(99, "alpha=1e-10,seed=3"), (18, "alpha=1e-10,seed=3"), (14, "alpha=...eed=3"), (5, "alpha"), (1, "a")],
)
def test_a_long_device_loses_its_middle(width: int, expected: str) -> None:
    assert shorten("alpha=1e-10,seed=3", width) == expected

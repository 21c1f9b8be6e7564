from __future__ import annotations

import io
import re

import pytest
from rich.text import Text

from rt_scale.system.console import PlainConsole
from rt_scale.system.tables import FittedTable

AXES = ["encoder.name", "data.name", "projector.out_dim", "student.alpha"]
NUMBERS = ["runs", "input", "teacher", "student", "gain [95 %]"]
LABEL = "encoder.name=small_convnet_width_0_25,data.name=digits,out_dim=1024,alpha=1e-10,seed=3"
REASON = "The loss is nan at step 1,234, which a lower learning rate may prevent."


def result(encoder: str, alpha: str, gain: str = "+11.5 [+8.2, +14.8]", runs: str = "3") -> list[str]:
    return [encoder, "digits", "16384", alpha, runs, "56.1 ± 0.4", "30.5 ± 12.7", f"42.{len(alpha)} ± 2.8", gain]


RESULTS = FittedTable(
    [*AXES, *NUMBERS],
    [result("small_convnet_width_0_25", "0.30000001"),
     result("vgg11", "1e-10", "-1.0 [-12.0, +10.0]", "2 of 3 (1 failed)")],
    keys=4, numbers=True, caption="Linear probe, CIFAR-10: test accuracy in %, mean ± standard deviation over seeds",
    styles=["bold", ""],
)  # fmt: skip
STATUS = FittedTable(
    ["run", "state", "attempts", "", "directory"],
    [[LABEL, Text("failed", style="red"), "2", REASON, "distill-0123456789abcdef"],
     [LABEL[:-1] + "4", Text("missing"), "0", "", "distill-fedcba9876543210"]],
)  # fmt: skip
SHORT = FittedTable(["alpha", "runs"], [["1e-10", "3"], ["0.5", "2 of 3"]])


def drawn(table: FittedTable, width: int, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    PlainConsole(file=file, width=width, color_system=None).print(table)
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 240])
@pytest.mark.parametrize("table", [RESULTS, STATUS, SHORT], ids=["results", "status", "short"])
def test_nothing_is_cut_and_numbers_stay_whole(table: FittedTable, width: int) -> None:
    lines = drawn(table, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for cell in (str(cell) for row in table.rows for cell in row):
        for whole in re.findall(r"\S+ ± \S+|\[[^]]*\]|[\w.=-]+", cell):
            assert whole in text, whole


def test_what_fits_is_a_line_a_row() -> None:
    assert drawn(SHORT, 60) == ["alpha  runs", "1e-10  3", "0.5    2 of 3"]


def test_an_interval_stands_below_its_mean() -> None:
    rows = [["1e-10", "56.1 ± 0.4", "+11.5 [+8.2, +14.8]"], ["0.5", "56.2 ± 0.4", "-1.0 [-2.5, +0.5]"]]
    lines = drawn(FittedTable(["alpha", "student", "gain [95 %]"], rows, numbers=True), 34)
    assert lines == [
        "alpha     student      gain [95 %]",
        "1e-10  56.1 ± 0.4            +11.5",
        "                     [+8.2, +14.8]",
        "  0.5  56.2 ± 0.4             -1.0",
        "                      [-2.5, +0.5]",
    ]


def test_a_title_is_broken_within_a_dotted_name() -> None:
    lines = drawn(FittedTable(["projector.out_dim", "run"], [["1", "a"], ["2", "b"]]), 15)
    assert lines[:2] == ["projector.", "out_dim     run"]


def test_columns_that_say_nothing_are_told_above() -> None:
    text = " ".join(drawn(RESULTS, 80))
    assert "The same in all rows: data.name digits, projector.out_dim 16384, input 56.1 ± 0.4, teacher" in text
    assert text.count("digits") == text.count("16384") == 1
    assert "The same" not in "".join(drawn(RESULTS, 240))
    (row,) = RESULTS.rows[:1]
    assert "The same" not in "".join(drawn(FittedTable(RESULTS.titles, [row]), 60))


def test_a_table_that_is_too_wide_is_a_block_a_run() -> None:
    assert drawn(STATUS, 60) == [
        "run encoder.name=small_convnet_width_0_25,data.name=digits,",
        "  out_dim=1024,alpha=1e-10,seed=3",
        "  state failed  attempts 2",
        "  The loss is nan at step 1,234, which a lower learning rate",
        "  may prevent.  directory distill-0123456789abcdef",
        "run encoder.name=small_convnet_width_0_25,data.name=digits,",
        "  out_dim=1024,alpha=1e-10,seed=4",
        "  state missing  attempts 0",
        "  directory distill-fedcba9876543210",
    ]


def test_keys_are_at_the_head_of_a_block() -> None:
    lines = drawn(FittedTable(RESULTS.titles, RESULTS.rows[1:], keys=4), 50)
    assert lines[:2] == ["encoder.name vgg11, data.name digits,", "  projector.out_dim 16384, student.alpha 1e-10"]


@pytest.mark.parametrize("width", [60, 240])
def test_styles_are_kept(width: int) -> None:
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    console.print(STATUS)
    console.print(RESULTS)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31mfailed" in written
    assert "\x1b[1m" in written


def test_characters_that_a_terminal_lacks_are_counted_as_shown() -> None:
    lines = drawn(RESULTS, 80, "ascii")
    assert any("56.1 +- 0.4" in line for line in lines)
    assert max(map(len, lines)) <= 80

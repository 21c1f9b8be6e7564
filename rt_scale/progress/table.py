"""The part of a sweep's view that is drawn anew: a row a running run, and a few lines below, whatever the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rt_scale.progress.bars import Score
from rt_scale.progress.eta import Pace, duration_text

COLUMNS = ("bar", "percent", "rate", "left", "where", "stage", "probes")
"""What stands beside the label, from left to right."""
DROPPED = ("bar", "stage", "rate", "probes", "where", "left", "percent")
"""What a narrow terminal does without, first to last."""
STYLES = {"where": "dim", "stage": "dim", "rate": "dim"}
BAR = 10
LABEL, SHARE = 24, 0.4
"""Characters of a label that are worth a column, and the part of a terminal that is."""
CELL = 24
"""Characters of a device or a stage, at most."""
GAP = "  "


@dataclass
class Row:
    """A run that is running.

    Attributes:
        label: the axes' values.
        pace: of this attempt.
        where: devices.
        stage: what is being done.
        step: where it stands.
        steps: how many there are; 0 where that is not known yet.
        scores: newest accuracies.
    """

    label: str
    pace: Pace
    where: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    scores: Sequence[Score] = ()

    def cells(self, now: float) -> dict[str, str]:
        """What its columns say; empty where nothing is known."""
        left, rate = self.pace.left(now), self.pace.rate
        return {
            "bar": "",
            "percent": f"{100 * self.step // self.steps:3d} %" if self.steps else "",
            "rate": "" if rate is None else f"{rate:,.{0 if rate >= 10 else 1}f} steps/s",
            "left": "" if left is None else f"{duration_text(left)} left",
            "where": shorten(self.where, CELL),
            "stage": shorten(self.stage, CELL),
            "probes": ", ".join(f"{score.kind} {100 * score.value:.1f}" for score in self.scores),
        }


class LiveTable:
    """Rows and notes, cut to the terminal that they are drawn on (a renderable).

    Args:
        rows: runs that are running.
        notes: lines below, the most important first.
        now: in seconds, as the rows' paces count.
    """

    def __init__(self, rows: Sequence[Row], notes: Sequence[Text], now: float) -> None:
        self._rows, self._notes, self._now = rows, notes, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line less than the terminal has: the cursor wants a place, too."""
        room = max(1, options.size.height - 1)
        notes = self._notes[:room]
        room -= len(notes)
        shown = self._rows if len(self._rows) <= room else self._rows[: max(0, room - 1)]
        lines = _lines(shown, self._now, options.max_width, "-" if options.ascii_only else "\u2501")
        if room and len(shown) < len(self._rows):
            lines.append(Text(f"and {len(self._rows) - len(shown)} more", style="dim"))
        apart = [Text()] if room > len(lines) else []  # from what scrolls by above
        for line in (*apart, *lines, *notes):
            line.no_wrap, line.overflow = True, "crop"
            yield line


def shorten(text: str, width: int) -> str:
    """The text without its middle, where it is wider than ``width`` characters."""
    if cell_len(text) <= width:
        return text
    if width <= 5:
        return set_cell_size(text, width)
    tail = (width - 3) // 2
    return f"{set_cell_size(text, width - 3 - tail)}...{set_cell_size(text[::-1], tail)[::-1]}"


def _lines(rows: Sequence[Row], now: float, width: int, mark: str) -> list[Text]:
    cells = [row.cells(now) for row in rows]
    widths = {name: max(map(cell_len, column), default=0) for name in COLUMNS if (column := [c[name] for c in cells])}
    widths["bar"] = BAR if widths.get("percent") else 0
    widest = max((cell_len(row.label) for row in rows), default=0)
    wanted = min(widest, max(LABEL, int(SHARE * width)))

    def beside() -> int:
        return sum(each + len(GAP) for each in widths.values() if each)

    for name in DROPPED:
        if beside() + wanted <= width:
            break
        widths[name] = 0
    label = min(widest, max(1, width - beside()))
    return [_line(row, each, label, widths, mark) for row, each in zip(rows, cells, strict=True)]


def _line(row: Row, cells: dict[str, str], label: int, widths: dict[str, int], mark: str) -> Text:
    line = Text(set_cell_size(shorten(row.label, label), label))
    for name in COLUMNS:
        if not widths[name]:
            continue
        line.append(GAP)
        if name == "bar" and row.steps:
            done = BAR * row.step // row.steps
            line.append(mark * done, style="cyan").append(mark * (BAR - done), style="bar.back")
        elif name in ("rate", "left"):
            line.append(" " * (widths[name] - cell_len(cells[name])) + cells[name], style=STYLES.get(name, ""))
        else:
            line.append(set_cell_size(cells[name], widths[name]), style=STYLES.get(name, ""))
    return line

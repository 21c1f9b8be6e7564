"""Tables for terminals of any width: nothing is cut, and no line breaks inside a word or a number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from rt_scale.system.console import BREAKS, broken, pieces, printable

GAP = 2
"""Blanks between columns."""
MOST_LINES = 3
"""Most lines of a row, in the mean; with more, each row is a block."""
IN_TITLES = (*BREAKS, ".", "_", "@")
"""Where a title is broken."""
_WHOLE = re.compile(r"\S+ (?:±|\+-) \S+|\[[-+\d.e]+, [-+\d.e]+\]|\d %")
"""A mean with its spread, an interval, a share: what is never broken."""
_JOIN, _PART = str.maketrans(" ,", "\ue000\ue001"), str.maketrans("\ue000\ue001", " ,")
"""Characters in place of those at which lines are broken, and back."""


class _Column(NamedTuple):
    title: str
    cells: Sequence[str]

    @property
    def most(self) -> int:
        """The width in which nothing is broken."""
        return max(map(cell_len, (self.title, *self.cells)))

    @property
    def least(self) -> int:
        """The width of the longest word."""
        words = [*pieces(self.title, 1, IN_TITLES), *(word for cell in self.cells for word in pieces(cell, 1, BREAKS))]
        return max((cell_len(word.rstrip()) for word in words), default=0)

    def height(self, row: int, width: int) -> int:
        return len(broken(self.cells[row], width, 0))


@dataclass(frozen=True)
class FittedTable:
    """A table in the first of these forms that the width allows.

    One line a row; cells in several lines, an interval below its mean; the same with columns that are equal in all rows
    told above; a block for each row.

    Attributes:
        titles: of the columns.
        rows: their cells.
        keys: how many columns, from the first, name a row at the head of its block.
        numbers: whether columns are flush right.
        caption: a sentence above the table.
        styles: of the rows; none: as everything else.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    keys: int = 1
    numbers: bool = False
    caption: str = ""
    styles: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def joined(cell: str | Text) -> str:
            return _WHOLE.sub(lambda found: found[0].translate(_JOIN), printable(str(cell), console.encoding))

        width = options.max_width
        cells = [[joined(cell) for cell in row] for row in self.rows]
        columns = {
            place: _Column(joined(title), [row[place] for row in cells]) for place, title in enumerate(self.titles)
        }
        if self.caption:
            yield _lines(self.caption, width, "dim")
        if (widths := _widths(columns, width)) is not None:
            yield from self._table(console, columns, widths)
            return
        same = {place: each for place, each in columns.items() if len(cells) > 1 and len({*each.cells}) == 1}
        columns = {place: each for place, each in columns.items() if place not in same} or columns
        if same:
            told = ", ".join(f"{each.title or 'note'} {each.cells[0]}" for each in same.values())
            yield _lines(f"The same in all rows: {told}.", width, "dim")
        if (widths := _widths(columns, width)) is not None:
            yield from self._table(console, columns, widths)
            return
        for row in range(len(cells)):
            yield self._block(columns, row, width)

    def _style(self, row: int) -> str:
        return self.styles[row] if self.styles else ""

    def _table(self, console: Console, columns: dict[int, _Column], widths: dict[int, int]) -> Iterator[Segment]:
        """The lines of the table. rich's own would measure and wrap all cells again, most of the time of many rows."""
        titles = [broken(each.title, widths[place], 0, IN_TITLES) for place, each in columns.items()]
        height = max(map(len, titles), default=0)
        heads = [([""] * (height - len(lines)) + lines, Style.null()) for lines in titles]  # they stand on the rows
        yield from self._row(heads, [*widths.values()], console.get_style("table.header"))
        for row, given in enumerate(self.rows):
            cells = []
            for place, each in columns.items():
                own = given[place]
                style = console.get_style(own.style) if isinstance(own, Text) else Style.null()
                cells.append((broken(each.cells[row], widths[place], 0), style))
            yield from self._row(cells, [*widths.values()], console.get_style(self._style(row)))

    def _row(
        self, cells: Sequence[tuple[Sequence[str], Style]], widths: Sequence[int], style: Style
    ) -> Iterator[Segment]:
        """A row's cells, each its lines and a style, side by side."""
        for number in range(max((len(lines) for lines, _ in cells), default=0)):
            for place, ((lines, own), width) in enumerate(zip(cells, widths, strict=True)):
                text = lines[number].translate(_PART) if number < len(lines) else ""
                blanks = " " * (width - cell_len(text))
                gap = " " * (GAP if place < len(cells) - 1 else 0)
                yield Segment(f"{blanks}{text}{gap}" if self.numbers else f"{text}{blanks}{gap}", style + own)
            yield Segment.line()

    def _block(self, columns: dict[int, _Column], row: int, width: int) -> Text:
        """The keys in a line, and the other columns, each with its title, in lines below it."""
        told = {place: f"{each.title} {each.cells[row]}".strip() for place, each in columns.items() if each.cells[row]}
        lines = broken(", ".join(text for place, text in told.items() if place < self.keys), width)
        for number, text in enumerate(text for place, text in told.items() if place >= self.keys):
            beside = f"{lines[-1]}  {text}"
            if number and cell_len(beside) <= width:
                lines[-1] = beside
            else:
                lines += [f"  {line}" for line in broken(text, width - 2, 0)]
        block = Text("\n".join(lines).translate(_PART), style=self._style(row))
        for given in self.rows[row]:
            if isinstance(given, Text):
                block.highlight_words([given.plain], given.style)
        return block


def _widths(columns: dict[int, _Column], width: int) -> dict[int, int] | None:
    """The columns' widths, the widest narrowed first; None if words are too long, or cells become too high."""
    found = {place: each.most for place, each in columns.items()}
    least = {place: each.least for place, each in columns.items()}
    room = width - GAP * (len(columns) - 1)
    while sum(found.values()) > room:
        narrowed = max((place for place in found if found[place] > least[place]), key=found.__getitem__, default=None)
        if narrowed is None:
            return None
        found[narrowed] -= 1
    count = len(next(iter(columns.values())).cells) if columns else 0
    lines = sum(max(each.height(row, found[place]) for place, each in columns.items()) for row in range(count))
    return found if lines <= MOST_LINES * count else None


def _lines(text: str, width: int, style: str) -> Text:
    return Text("\n".join(broken(text, width, 0)).translate(_PART), style=style)

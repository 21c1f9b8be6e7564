"""Printing that never fails: plain text, and standard streams that drop what cannot be written.

:func:`lost` reports why text was dropped, unless the reader closed its end.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READABLE = "rt_scale.readable"
"""The name of our error handler for ``str.encode``."""
_STAND_INS = {
    "\u00b1": "+-", "\u00d7": "x", "\u00b7": "-", "\u2192": "->", "\u2264": "<=", "\u2265": ">=", "\u2248": "~",
    "\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"',
    "\u201d": '"', "\u2501": "-", "\u00a0": " ",
}  # fmt: skip
"""Replacements for characters that the encoding lacks; all others are printed as ``\\u....``."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters except tab and line feed, and characters that reorder the text around them."""


def visible(text: str) -> str:
    r"""The text with control characters escaped (``\x1b``), so that it cannot control a terminal."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(text: str, encoding: str) -> str:
    """The visible text in characters that ``encoding`` has, so that its width is known before it is printed."""
    seen = visible(text)
    return seen if seen.isascii() else seen.encode(encoding, READABLE).decode(encoding)


BREAKS = ("  ", " ", ",")
"""Where a line is broken, the best places first; labels of runs have commas."""


def broken(text: str, width: int, indent: int = 2, breaks: Sequence[str] = BREAKS) -> list[str]:
    """The text in lines of at most ``width`` cells, all but the first indented; no word is cut that fits a line."""
    indent = min(indent, width // 4)
    lines = [""]
    for piece in pieces(text, width - indent, breaks):
        if lines[-1].strip() and cell_len(lines[-1] + piece.rstrip()) > width:
            lines[-1:] = [lines[-1].rstrip(), " " * indent]
        line = lines[-1] + piece
        too_long = cell_len(line.rstrip()) > width  # one word alone
        lines[-1:] = [*chop_cells(line.rstrip(), width), ""] if too_long else [line]
    return [line.rstrip() for line in lines if line.strip()] or [""]


def pieces(text: str, width: int, breaks: Sequence[str]) -> list[str]:
    """The text in pieces of at most ``width`` cells, as few as can be, each with the break that ends it.

    A break that is no blank ends no piece before a digit: it may be within a number.
    """
    if not breaks or cell_len(text.rstrip()) <= width:
        return [text]
    if breaks[0] == " ":  # commands in quotes stay whole, to be copied
        parts = re.findall(r"(?:'rt-scale [^']*'|\S)+\s*", text)
    else:
        after = r"\S" if breaks[0].isspace() else r"[^\s\d]"
        parts = re.split(rf"(?<={re.escape(breaks[0])})(?={after})", text)
    return [piece for part in parts for piece in pieces(part, width, breaks[1:])]


def duration_text(seconds: float) -> str:
    """A time in its two largest units, e.g. ``59s``, ``2m 10s``, ``1h 05m``, ``3d 04h``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def amount_text(amount: float, currency: str) -> str:
    """An amount of money as text; below 0.1 with two significant digits."""
    return f"{amount:,.2f} {currency}" if amount >= 0.1 or amount == 0 else f"{amount:.2g} {currency}"


def number_text(amount: float) -> str:
    """An amount of hours with two significant digits, and no less than whole ones."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.2g}"


def say(text: str, *, error: bool = False) -> None:
    """Print a line of plain text on standard output or standard error, at once also where that is a pipe."""
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


def say_error(error: object) -> None:
    """Print an error on standard error, on one line; a terminal gets it in lines broken between words."""
    text = visible(f"rt-scale: {' '.join(str(error).splitlines())}")
    if sys.stderr.isatty():
        text = "\n".join(broken(text, shutil.get_terminal_size().columns))
    print(text, file=sys.stderr)


def print_anything() -> None:
    """Make the standard streams replace characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    marks = error.object[error.start : error.end]
    written = [_STAND_INS.get(mark) or mark.encode("ascii", "backslashreplace").decode() for mark in marks]
    return "".join(written), error.end


codecs.register_error(READABLE, _replaced)


LEFT = (errno.EPIPE, errno.ECONNRESET)
"""Error numbers that mean that the reader closed its end."""
NAMES = {"stdout": 1, "stderr": 2}
_lost: dict[str, OSError] = {}


class LastingFile(io.FileIO):
    """A descriptor whose writes never fail and are never partial, even if it is non-blocking.

    ``name`` is its key in :func:`lost`; ``owned``: closing this closes the descriptor.
    """

    def __init__(self, number: int, name: str, *, owned: bool = False) -> None:
        super().__init__(number, "wb", closefd=owned)
        self._stream = name

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of ``data``, or drop what cannot be written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:
                    select.select([], [self.fileno()], [])
                else:
                    left = left[written:]
        except OSError as error:
            if error.errno not in LEFT:
                _lost.setdefault(self._stream, error)
        return size


def lasting_stream(
    number: int,
    name: str,
    *,
    encoding: str = "utf-8",
    errors: str = "replace",
    owned: bool = False,
    buffered: bool = True,
) -> TextIO:
    """A text stream on a :class:`LastingFile`, set up as Python sets up its standard streams."""
    raw = LastingFile(number, name, owned=owned)
    if not buffered:
        return io.TextIOWrapper(raw, encoding, errors, write_through=True)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=name == "stderr" or raw.isatty())


def make_streams_last() -> None:
    """Replace this process's standard streams by streams that cannot fail; keep streams that a program has set."""
    for name, number in NAMES.items():
        stream = getattr(sys, name)
        if stream is None:  # was closed when this process began
            setattr(sys, name, lasting_stream(_nowhere(), name))
        elif isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            with suppress(OSError):
                stream.flush()
            lasting = lasting_stream(
                number, name, encoding=stream.encoding, errors=stream.errors or "strict",
                buffered=not stream.write_through,
            )  # fmt: skip
            setattr(sys, name, lasting)


def _nowhere() -> int:
    """/dev/null on the lowest free descriptor, so that no later file takes the number of a standard stream."""
    number = os.open(os.devnull, os.O_WRONLY)
    os.set_inheritable(number, True)
    return number


def lost() -> dict[str, str]:
    """Why text was dropped, by stream (``stdout``, ``stderr``); a reader that closed its end is not counted."""
    for name in NAMES:
        with suppress(ValueError, AttributeError):  # already closed
            getattr(sys, name).flush()
    return {name: error.strerror or str(error) for name, error in _lost.items()}


class PlainConsole(Console):
    """A console without markup and emoji codes that prints every string by :func:`printable`.

    So text from outside (paths, names, error messages) is safe; styled text is a ``rich.text.Text``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The printable text, so that rich measures what is printed."""
        return super().render_str(printable(text, self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments; only those that rich itself makes control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, self.encoding), segment.style)

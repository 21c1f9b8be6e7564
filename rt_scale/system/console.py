"""Printing that never ends the work: one kind of console, plain text, streams whose reader may leave.

What cannot be written is dropped. A reader that left is nobody's fault; any other reason is kept for the end.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READABLE = "rt_scale.readable"
"""The error handler of :func:`print_anything`, as ``str.encode`` takes it."""
_STAND_INS = {
    "\u00b1": "+-", "\u00d7": "x", "\u00b7": "-", "\u2192": "->", "\u2264": "<=", "\u2265": ">=", "\u2248": "~",
    "\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"',
    "\u201d": '"', "\u2501": "-", "\u00a0": " ",
}  # fmt: skip
"""What is printed for a character that the encoding lacks; all others are printed as ``\\u....``."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but for tab and line feed, and those that reorder the text around them."""


def visible(text: str) -> str:
    r"""The text with its control characters written out (``\x1b``): nothing in it commands a terminal."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(text: str, encoding: str) -> str:
    """The visible text in characters that ``encoding`` has, so that what it takes on a line is known beforehand."""
    seen = visible(text)
    return seen if seen.isascii() else seen.encode(encoding, READABLE).decode(encoding)


def duration_text(seconds: float) -> str:
    """A time in its two largest units, e.g. ``59s``, ``2m 10s``, ``1h 05m``, ``3d 04h``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def size_text(size: float) -> str:
    """Bytes in a unit that suits them, e.g. ``3.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def say(text: str, *, error: bool = False) -> None:
    """Print a line as it is on standard output, or standard error."""
    print(visible(text), file=sys.stderr if error else sys.stdout)


def say_error(error: object) -> None:
    """Print one paragraph about an error on standard error, whatever its text holds."""
    say(f"rt-scale: {' '.join(str(error).splitlines())}", error=True)


def print_anything() -> None:
    """Let the standard streams of this process write what their encoding lacks in other characters, never failing."""
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
"""How the system says that a reader went away."""
NAMES = {"stdout": 1, "stderr": 2}
_lost: dict[str, OSError] = {}


class LastingFile(io.FileIO):
    """A descriptor whose writes never fail, never write a part alone, and wait where it does not block.

    ``name`` is the standard stream that it is, as ``lost`` names it; ``owned``: closing this closes the descriptor.
    """

    def __init__(self, number: int, name: str, *, owned: bool = False) -> None:
        super().__init__(number, "wb", closefd=owned)
        self._stream = name

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or drop what cannot be written."""
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
    """A text stream on a descriptor, as Python makes its standard streams, that cannot fail.

    Arguments as of :class:`LastingFile` and ``open``; ``buffered`` is False as under PYTHONUNBUFFERED.
    """
    raw = LastingFile(number, name, owned=owned)
    if not buffered:
        return io.TextIOWrapper(raw, encoding, errors, write_through=True)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=name == "stderr" or raw.isatty())


def make_streams_last() -> None:
    """Put streams that cannot fail in place of this process's own; those that a program put there stay."""
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
    """A descriptor that leads nowhere: the lowest free one, so that no file of ours becomes a standard stream."""
    number = os.open(os.devnull, os.O_WRONLY)
    os.set_inheritable(number, True)
    return number


def lost() -> dict[str, str]:
    """Why text was dropped, by stream (``stdout``, ``stderr``), where it was not because its reader left."""
    for name in NAMES:
        with suppress(ValueError, AttributeError):  # closed by who used it
            getattr(sys, name).flush()
    return {name: error.strerror or str(error) for name, error in _lost.items()}


class PlainConsole(Console):
    """Shows all text as it is: no markup, no emoji codes, control characters written out, and others in place
    of those that the encoding lacks.

    Text from outside (paths, names, values, error messages) needs no care then; what is to have a style is a
    ``rich.text.Text``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As Text; measured as it will be seen."""
        return super().render_str(printable(text, self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments, of which only those that rich itself made control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, self.encoding), segment.style)

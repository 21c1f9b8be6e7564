"""Text for people that can be printed anywhere: in every encoding, and with nothing in it that moves a cursor."""

from __future__ import annotations

import codecs
import io
import re
import sys

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

"""The errors that reach a user, and numbers and names as they stand in sentences.

An error is one paragraph that says what was given, what is allowed and what to do next.
The command line prints it without a traceback and exits with its ``exit_code``.
"""

from __future__ import annotations

import difflib
import itertools
import reprlib
from collections.abc import Iterable, Sequence


def counted(number: int, thing: str) -> str:
    """``number`` of ``thing``, a regular noun in the singular: ``1 file``, ``2,000 files``, ``2 classes``."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}" + ("" if number == 1 else plural)


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first ``shown`` of ``names``, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest:,} more" if rest > 0 else "")


def shortened(names: Sequence[str], shown: int = 20) -> str:
    """All of ``names``, or the first and the last of them where there are more than ``shown``."""
    half = shown // 2
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[:half])}, ... ({len(names) - 2 * half:,} more) ..., {', '.join(names[-half:])}"


def printable(name: str) -> str:
    """A name as it can be printed in one line: bytes that are not UTF-8, and control characters, as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class RtScaleError(Exception):
    """Base of every error that is meant for the user's eyes."""

    exit_code = 1


class InputError(RtScaleError, ValueError):
    """What was asked for cannot be done as it stands; found before any work started.

    A ValueError too, so that a validator may raise it and pydantic collects it with the others.
    """

    exit_code = 2


class Held(InputError):
    """Another live process is executing that run."""


class RunError(RtScaleError):
    """Something failed while running; what was computed before is kept."""

    exit_code = 1


class WorkersDied(RunError):
    """Of several processes that execute a run together one died, and with it all."""


class StoreAway(RunError):
    """The store does not answer as it should, which may pass."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest in spelling to ``given``, or None where none is close.

    Of several as close, the one that begins most like it, and of those the first by name.
    """
    wanted = given.lower()

    def order(name: str) -> tuple[float, int, str]:
        ratio = difflib.SequenceMatcher(None, name.lower(), wanted).ratio()
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(name.lower(), wanted, strict=False))
        return -ratio, -len(list(alike)), name

    names = list(allowed)
    return min(difflib.get_close_matches(wanted, names, n=max(1, len(names)), cutoff=0.5), key=order, default=None)


def guess(given: str, allowed: Iterable[str]) -> str:
    """`` did you mean 'x'?``, of the allowed name nearest to ``given``; empty where none is near."""
    close = nearest(given, allowed)
    return f" did you mean '{close}'?" if close else ""


def unknown_name(what: str, given: str, allowed: Iterable[str], hint: str = "") -> InputError:
    """An error for a name that is not known: names the nearest one and lists those allowed.

    Args:
        what: the kind of thing that was named, e.g. ``"encoder"``.
        given: the name as the user wrote it.
        allowed: every name that would have been accepted.
        hint: a closing sentence on what to do, where the list alone does not say it.
    """
    names = sorted(allowed)
    close = guess(given, names).replace(" did", " Did")
    message = f"Unknown {what} {shown(given)}.{close} Known: {', '.join(names)}."
    return InputError(f"{message} {hint}".rstrip())


def first_line(error: BaseException) -> str:
    """What an error of a library says in short, or its kind where it says nothing: CUDA's go on for pages."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Shown(reprlib.Repr):
    """Of long strings and lists the beginning and the end, with booleans and null as YAML spells them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlist = self.maxtuple = self.maxdict = 10

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"


def shown(value: object) -> str:
    """What was given as an error quotes it: as YAML would have it, cut where it is long."""
    return cut(_Shown().repr(value), 300)


def cut(text: str, longest: int = 100) -> str:
    """``text`` without its end where it is longer than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}..."

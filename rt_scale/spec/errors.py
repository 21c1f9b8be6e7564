"""User-facing errors, and the formatting of numbers and names in messages.

An error message is one paragraph: what was given, what is allowed, what to do next. The CLI prints no traceback.
"""

from __future__ import annotations

import difflib
import itertools
import reprlib
from collections.abc import Iterable, Sequence
from enum import IntEnum


def counted(number: int, thing: str) -> str:
    """``number`` of ``thing``, a regular noun in the singular: ``1 file``, ``2,000 files``, ``2 classes``."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}" + ("" if number == 1 else plural)


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first ``shown`` of ``names``, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest:,} more" if rest > 0 else "")


def shortened(names: Sequence[str], shown: int = 20) -> str:
    """All of ``names``, or the first and the last if there are more than ``shown``."""
    half = shown // 2
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[:half])}, ... ({len(names) - 2 * half:,} more) ..., {', '.join(names[-half:])}"


def printable(name: str) -> str:
    """``name`` in one printable line: bytes that are not UTF-8 and control characters become escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class ExitCode(IntEnum):
    """Exit codes of commands; scripts that start a command again decide by them."""

    DONE = 0
    FAILED = 1
    """Some runs failed, or an error after work had started."""
    REFUSED = 2
    """The input is not valid; nothing was started."""
    CLUSTER_LOST = 3
    """The head of the Ray cluster no longer answers; the same command continues on a new one."""
    OTHERS_LEFT = 4
    """With ``--leave-others``: nothing is left to start, and other drivers execute the remaining runs."""
    DEADLINE = 5
    """Runs are left at the sweep's deadline; the same command with a later one continues."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, SIGTERM or SIGHUP; the shells' code for Ctrl-C."""


class RtScaleError(Exception):
    """Base of all user-facing errors."""

    exit_code = ExitCode.FAILED


class InputError(RtScaleError, ValueError):
    """The input is not valid; raised before any work starts. It is a ValueError so that pydantic collects it."""

    exit_code = ExitCode.REFUSED


class DeadlineReached(RtScaleError):
    """Runs are left at the deadline of their sweep."""

    exit_code = ExitCode.DEADLINE


class LeasedElsewhere(InputError):
    """Another live process, ``owner`` in words, executes the run."""

    def __init__(self, text: str, owner: str = "") -> None:
        super().__init__(text)
        self.owner = owner


class RunError(RtScaleError):
    """A run failed; its earlier results are kept."""


class WorkersDied(RunError):
    """One of the processes that execute a run together died, which ended all of them.

    ``with_node``: as its node was preempted or lost.
    """

    def __init__(self, text: str, *, with_node: bool = False) -> None:
        super().__init__(text)
        self.with_node = with_node


class DeviceLost(RunError):
    """A GPU failed, or is not there; the run can be continued on another."""


class StoreUnavailable(RunError):
    """The store is temporarily unavailable."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest in spelling to ``given``, or None; the longest common prefix decides a tie."""
    wanted = given.lower()

    def order(name: str) -> tuple[float, int, str]:
        ratio = difflib.SequenceMatcher(None, name.lower(), wanted).ratio()
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(name.lower(), wanted, strict=False))
        return -ratio, -len(list(alike)), name

    names = list(allowed)
    alike = difflib.get_close_matches(wanted, {name.lower() for name in names}, n=max(1, len(names)), cutoff=0.5)
    return min((name for name in names if name.lower() in alike), key=order, default=None)


def guess(given: str, allowed: Iterable[str]) -> str:
    """`` did you mean 'x'?``, with the allowed name nearest to ``given``; empty if none is close."""
    close = nearest(given, allowed)
    return f" did you mean '{close}'?" if close else ""


def unknown_name(what: str, given: str, allowed: Iterable[str], hint: str = "") -> InputError:
    """The error for an unknown ``what`` (e.g. ``"encoder"``), with the nearest and all allowed names, then ``hint``."""
    names = sorted(allowed)
    close = guess(given, names).replace(" did", " Did")
    message = f"Unknown {what} {shown(given)}.{close} Known: {', '.join(names)}."
    return InputError(f"{message} {hint}".rstrip())


def first_line(error: BaseException) -> str:
    """The first line of a library's error, or its class name if it is empty; CUDA's messages fill pages."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Shown(reprlib.Repr):
    """Shortens long strings and lists, and writes booleans and null as YAML does."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlist = self.maxtuple = self.maxdict = 10

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"


def shown(value: object) -> str:
    """``value`` as error messages quote it: booleans and null as in YAML, shortened if long."""
    return cut(_Shown().repr(value), 300)


def cut(text: str, longest: int = 100) -> str:
    """``text``, truncated after ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}..."

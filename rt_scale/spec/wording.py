"""Numbers and names as they stand in sentences."""

from __future__ import annotations

from collections.abc import Sequence


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

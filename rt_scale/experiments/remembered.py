"""What a process tried out and need not try again: a trial takes a second, and a sweep has many runs of a shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable

Decision = tuple[str, str]
"""What was chosen, and why."""

_DECIDED: dict[Hashable, Decision] = {}


def once(key: Hashable, decide: Callable[[], Decision]) -> Decision:
    """What ``decide`` says, which is asked once in this process for equal keys."""
    if key not in _DECIDED:
        _DECIDED[key] = decide()
    return _DECIDED[key]


def forget() -> None:
    """Everything is asked again."""
    _DECIDED.clear()

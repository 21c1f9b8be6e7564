"""How fast runs go, and when all of them will be through."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

WINDOW = 60.0
"""Seconds over which the runs at a time are counted: between two runs a slot is empty for a moment."""


def duration_text(seconds: float) -> str:
    """A time in its two largest units, e.g. ``59s``, ``2m 10s``, ``1h 05m``, ``3d 04h``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class Pace:
    """How fast one attempt of a run goes, by what it reports.

    Args:
        now: when it began, in seconds.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self._first = self._last = (now, 0)
        self._steps = 0

    def reported(self, now: float, step: int, steps: int) -> None:
        """Take note that it stands at ``step`` of ``steps``.

        Time before the first step, and before a return to a checkpoint, says nothing about the rate.
        """
        if step <= self._first[1] or step < self._last[1] or not self._steps:
            self._first = (now, step)
        self._last, self._steps = (now, step), steps

    @property
    def rate(self) -> float | None:
        """Steps a second since its first step, pauses for probing included; None before there are two reports."""
        seconds = self._last[0] - self._first[0]
        return (self._last[1] - self._first[1]) / seconds if seconds > 0 else None

    @property
    def whole(self) -> float | None:
        """Seconds that all of its steps take at this rate."""
        return None if self.rate is None else self._steps / self.rate

    def left(self, now: float) -> float | None:
        """Seconds until it is through at this rate."""
        if self.rate is None:
            return None
        return max(0.0, (self._steps - self._last[1]) / self.rate - (now - self._last[0]))


class Slots:
    """How many runs there is room for, by how many there were at once lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def saw(self, now: float, running: int) -> None:
        """Take note of how many run."""
        if running != self._seen[-1][1]:
            self._seen.append((now, running))

    def count(self, now: float) -> int:
        """The most that ran at once within the last ``WINDOW`` seconds; 1 at least."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        return max(1, *(running for _, running in self._seen))


class Left(NamedTuple):
    """Seconds that a sweep still takes.

    Attributes:
        seconds: an estimate.
        measured: whether it rests on whole runs; else on steps alone, and more than that has to be done.
    """

    seconds: float
    measured: bool

    def __str__(self) -> str:
        return f"{'about' if self.measured else 'at least'} {duration_text(self.seconds)} left"


def sweep_left(paces: Sequence[Pace], now: float, *, queued: int, slots: int, usual: float | None) -> Left | None:
    """When the last run will be through, if every slot takes the next run as soon as it is free.

    Args:
        paces: of the runs that are running.
        now: in seconds.
        queued: runs that are not running yet.
        slots: runs at a time.
        usual: mean seconds of a finished run, where there is one.

    Returns:
        None where nothing is known yet.
    """
    known = [pace.whole for pace in paces if pace.whole is not None]
    one = usual if usual is not None else sum(known) / len(known) if known else None
    if one is None:
        return None
    left = [pace.left(now) for pace in paces]
    guessed = [max(0.0, one - (now - pace.began)) for pace in paces]
    free = sorted(guess if seconds is None else seconds for seconds, guess in zip(left, guessed, strict=True))
    free = [0.0] * (slots - len(free)) + free
    rounds, more = divmod(queued, len(free))
    ends = [start + one * (rounds + (place < more)) for place, start in enumerate(free)]
    return Left(max(ends), usual is not None or (None not in left and not queued))

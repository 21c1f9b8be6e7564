"""When a sweep has to end, and which runs would end before."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import InputError, shown

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Seconds of a unit of a duration, the largest first."""
DURATION = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS))
EXAMPLES = "a duration like 8h, 90m or 1d12h, or a time like 18:30 or 2026-02-28T18:30"


@dataclass(frozen=True)
class Deadline:
    """The end of a sweep: ``at``, in seconds since the epoch; ``left`` gives the seconds that a run still takes.

    A run of which ``left`` knows nothing (None) may start.
    """

    at: float
    left: Callable[[Job], float | None] = lambda job: None

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.time() >= self.at

    def allows(self, job: Job) -> bool:
        """Whether a run that starts now would end before."""
        seconds = self.left(job)
        return seconds is None or time.time() + seconds <= self.at

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.at):%Y-%m-%d %H:%M:%S}"


def duration_of(text: str) -> float | None:
    """The seconds of a duration like 8h, 90m, 1d12h; None if it is none."""
    found = DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    return sum(float(number or 0) * seconds for number, seconds in zip(found.groups(), UNITS.values(), strict=True))


def deadline_at(text: str, now: datetime | None = None) -> float:
    """The seconds since the epoch of a duration from now, of a time of day (the next one), or of a date with a time.

    InputError: it is neither, or not in the future.
    """
    now = now or datetime.now()
    seconds = duration_of(text)
    try:
        if seconds is not None:
            at = now + timedelta(seconds=seconds)
        elif re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text.strip()):
            at = datetime.combine(now.date(), datetime.strptime(text.strip()[:5].rjust(5, "0"), "%H:%M").time())
            at += timedelta(days=at <= now)
        else:
            at = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise InputError(f"The deadline is {shown(text)}; give {EXAMPLES}.") from None
    if at.timestamp() <= now.timestamp():
        raise InputError(f"The deadline {shown(text)} is not in the future; give {EXAMPLES}.")
    return at.timestamp()

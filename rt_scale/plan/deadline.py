"""How long runs still take while their sweep is executed, for its deadline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rt_scale.plan.plan import Conditions, Plan, Work, work_of
from rt_scale.scheduler.deadline import Deadline
from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import counted
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.system.console import duration_text

REFRESH_S = 120.0
"""Seconds after which runs that were finished meanwhile are taken into account."""


class TimeLeft:
    """Seconds that a run of sweeps of one store still takes, by the plan; None if unknown.

    It is called by the driver, and learns from the runs that were finished meanwhile.
    """

    def __init__(self, sweeps: Sequence[SweepRuns], data_dir: Path, conditions: Conditions) -> None:
        self._sweeps, self._data_dir, self._conditions = sweeps, data_dir, conditions
        self._work: Work | None = None
        self._made = 0.0

    def __call__(self, job: Job) -> float | None:
        if self._work is None or time.monotonic() - self._made >= REFRESH_S:
            self._work = work_of(self._sweeps, self._data_dir, self._conditions)
            self._made = time.monotonic()
        found = self._work.estimate(job, 1)
        return None if found.seconds is None else found.left


def held_to(plan: Plan, deadline: Deadline, now: float | None = None) -> str:
    """In words, whether sweeps end before their deadline by the plan; ``now``: seconds since the epoch."""
    found = plan.interrupted or plan.undisturbed
    if found is None:
        return f"Whether the runs end before the deadline ({deadline}) is not known: none has an estimate."
    took = found.makespan + (plan.start or 0.0)
    spare = deadline.at - (time.time() if now is None else now) - took
    when = "before" if spare >= 0 else "after"
    end = f"the last run ends {duration_text(abs(spare))} {when} the deadline ({deadline})"
    unknown = f", without {counted(plan.unknown, 'run')} of which no time is known" if plan.unknown else ""
    late = "" if spare >= 0 else "; runs that would not end before it are not started"
    return f"By the plan, {end}{unknown}{late}."

"""Deadlines as they are typed, and what may start before them."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from rt_scale.scheduler.deadline import Deadline, deadline_at, duration_of
from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store
from tests.unit.scheduler.test_queue import ONE, Room, Told, after, spec, taken

NOW = datetime(2026, 2, 28, 18, 0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28800),
        ("90m", 5400),
        ("1d12h", 129600),
        ("1.5h", 5400),
        ("45s", 45),
        ("8", None),
        ("h", None),
        ("", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2h30m", datetime(2026, 2, 28, 20, 30)),
        ("18:30", datetime(2026, 2, 28, 18, 30)),
        ("9:05", datetime(2026, 3, 1, 9, 5)),
        ("18:00", datetime(2026, 3, 1, 18, 0)),
        ("2026-03-02T07:00", datetime(2026, 3, 2, 7, 0)),
    ],
)
def test_deadlines(text: str, at: datetime) -> None:
    assert deadline_at(text, NOW) == at.timestamp()


def test_a_time_zone_counts() -> None:
    assert deadline_at("2026-03-02T07:00+00:00", NOW) == datetime.fromisoformat("2026-03-02T08:00+01:00").timestamp()


@pytest.mark.parametrize("text", ["tomorrow", "8", "25:00", "-3h", "2026-02-30T10:00", ""])
def test_what_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="give a duration like 8h"):
        deadline_at(text, NOW)


@pytest.mark.parametrize("text", ["0h", "2026-02-28T17:59"])
def test_the_past_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not in the future"):
        deadline_at(text, NOW)


def test_what_would_not_end_before_it_is_not_started(tmp_path: Path) -> None:
    long, short, unknown = spec(0), spec(1), spec(2)
    takes = {long.name: 7200.0, short.name: 60.0, unknown.name: None, after(long).name: 60.0}
    deadline = Deadline(time.time() + 3600, lambda job: takes[job.name])
    jobs = [Job(str(number), each, ONE) for number, each in enumerate([long, short, unknown, after(long)])]
    queue = Queue(jobs, StoredRuns(Store(tmp_path)), Told(), Room(), may_start=deadline.allows)
    assert taken(queue) == ["1", "2"]
    assert queue.late == {long.name}
    assert not queue.finished
    for each in (short, unknown):
        queue.ended(each.name, JobOutcome(JobState.DONE))
    assert queue.finished
    assert queue.left == {long.name, after(long).name}
    assert not deadline.passed
    assert Deadline(time.time() - 1).passed

"""How a sweep stands: what runs, waits, finished and failed; its rate, its time left and its best run."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rt_scale.progress.bars import CLASSIFIER, Score, probe_text, scores
from rt_scale.scheduler.job import RunReport
from rt_scale.system.console import duration_text

CELL = 24
"""Characters of a device or a stage, at most."""
WINDOW = 60.0
"""Seconds over which the runs at a time are counted: between two runs a slot is empty for a moment."""


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


DONE, FAILED, STOPPED = "done", "failed", "stopped early"
BEST_OF = ("linear", "knn", CLASSIFIER)
"""What runs are compared by: the first of these that any run has."""
NAMED = 4
"""Devices or reasons that a line names, at most."""


def shorten(text: str, width: int) -> str:
    """The text without its middle, where it is wider than ``width`` characters."""
    if cell_len(text) <= width:
        return text
    if width <= 5:
        return set_cell_size(text, width)
    tail = (width - 3) // 2
    return f"{set_cell_size(text, width - 3 - tail)}...{set_cell_size(text[::-1], tail)[::-1]}"


@dataclass
class Row:
    """A run that is running.

    Attributes:
        label: the axes' values.
        pace: of this attempt.
        where: devices.
        stage: what is being done.
        step: where it stands.
        steps: how many there are; 0 where that is not known yet.
        scores: newest accuracies.
    """

    label: str
    pace: Pace
    where: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    scores: Sequence[Score] = ()

    def cells(self, now: float) -> dict[str, str]:
        """What its columns say; empty where nothing is known."""
        left, rate = self.pace.left(now), self.pace.rate
        return {
            "bar": "",
            "percent": f"{100 * self.step // self.steps:3d} %" if self.steps else "",
            "rate": "" if rate is None else f"{rate:,.{0 if rate >= 10 else 1}f} steps/s",
            "left": "" if left is None else f"{duration_text(left)} left",
            "where": shorten(self.where, CELL),
            "stage": shorten(self.stage, CELL),
            "probes": ", ".join(f"{score.kind} {100 * score.value:.1f}" for score in self.scores),
        }


class Settled(NamedTuple):
    """A run that is through.

    Attributes:
        place: which one it is, e.g. ``[3/24]``.
        probes: its last accuracies.
        took: how long it ran and where, e.g. ``18s on cuda:0``; empty where it did not run here.
    """

    place: str
    probes: str
    took: str


class Standing:
    """What is known of the runs of a sweep; labels and reasons are kept without what would move a cursor.

    Args:
        total: runs of the sweep.
        done_before: those of them that were complete before.
        now: in seconds; all times are by the same clock.
    """

    def __init__(self, total: int, done_before: int, now: float) -> None:
        self.total = total
        self._done_before = done_before
        self._started = now
        self._running: dict[str, Row] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._waiting: dict[str, tuple[str, float | None]] = {}
        self._spent: dict[str, float] = {}
        self._settled: set[str] = set()
        self._states: Counter[str] = Counter()
        self._durations: list[float] = []
        self._best: dict[str, tuple[Score, str]] = {}
        self._slots = Slots()

    @property
    def rows(self) -> list[Row]:
        """The runs that are running, in the order of their starts."""
        return list(self._running.values())

    def report(self, label: str, report: RunReport, now: float) -> None:
        """A run reported, as ``View.running`` has it; too late where it is through."""
        if label in self._settled:
            return
        self._waiting.pop(label, None)
        row = self._running.setdefault(label, Row(plain(label), Pace(now)))
        row.step, row.steps = report.step, report.steps
        row.where, row.stage = plain(report.where), plain(report.stage)
        values = self._values.setdefault(label, {})
        values.update(report.values)
        row.scores = scores(values)
        row.pace.reported(now, row.step, row.steps)
        self._slots.saw(now, len(self._running))

    def wait(self, label: str, why: str, seconds: float | None, now: float) -> bool:
        """A run is back in the queue; returns whether it had been running."""
        if label in self._settled:
            return False
        self._waiting[label] = (plain(why), None if seconds is None else now + seconds)
        return self._leave(label, now) is not None

    def settle(self, label: str, state: str, values: Mapping[str, float], now: float) -> Settled | None:
        """A run is through, as ``state`` says; None where it was before."""
        if label in self._settled:
            return None
        row = self._leave(label, now)
        self._waiting.pop(label, None)
        self._settled.add(label)
        self._states[state] += 1
        last = {**self._values.pop(label, {}), **values}
        spent = self._spent.pop(label, None)
        if state != FAILED:
            _compare(self._best, scores(last), plain(label))
            self._durations += [] if spent is None else [spent]
        where = f" on {row.where}" if row is not None and row.where else ""
        took = "" if spent is None else f"{duration_text(spent)}{where}"
        return Settled(f"[{self._done_before + len(self._settled)}/{self.total}]", probe_text(last), took)

    def _leave(self, label: str, now: float) -> Row | None:
        """Take a run off its device."""
        row = self._running.pop(label, None)
        if row is not None:
            self._spent[label] = self._spent.get(label, 0.0) + now - row.pace.began
        self._slots.saw(now, len(self._running))
        return row

    def notes(self, now: float) -> list[Text]:
        """The summary as lines, the most important first."""
        return [note for note in (self._counts(), self._times(now), self._leader(), self._reasons(now)) if note]

    def line(self, now: float) -> str:
        """The summary in one line, with the devices, which no row tells there."""
        places = [*dict.fromkeys(row.where for row in self._running.values() if row.where)]
        devices = [f"running on {_named(places)}"] if places else []
        return "; ".join([*(note.plain for note in self.notes(now)), *devices])

    @property
    def _queued(self) -> int:
        """Runs that were not started yet."""
        return self.total - self._done_before - len(self._settled) - len(self._running) - len(self._waiting)

    def _counts(self) -> Text:
        text = Text(f"{self._done_before + self._states[DONE]} of {self.total} {DONE}")
        for count, words, style in (
            (len(self._running), "running", ""),
            (self._states[FAILED], FAILED, "bold red"),
            (self._states[STOPPED], STOPPED, ""),
            (len(self._waiting), "waiting", "yellow"),
            (self._queued, "to start", ""),
        ):
            if count:
                text.append(", ").append(f"{count} {words}", style=style)
        return text

    def _times(self, now: float) -> Text:
        spent = now - self._started
        text = f"{duration_text(spent)} so far"
        through = self._states[DONE] + self._states[STOPPED]
        if through and spent > 0:
            rate = 3600 * through / spent
            text += f", {rate:,.{0 if rate >= 10 else 1}f} runs an hour"
        queued = self._queued + len(self._waiting)
        if queued or self._running:
            usual = sum(self._durations) / len(self._durations) if self._durations else None
            paces = [row.pace for row in self._running.values()]
            left = sweep_left(paces, now, queued=queued, slots=self._slots.count(now), usual=usual)
            text += ", time left not known yet" if left is None else f", {left}"
        return Text(text)

    def _leader(self) -> Text | None:
        best = dict(self._best)
        for row in self._running.values():
            _compare(best, row.scores, row.label)
        kind = next((kind for kind in BEST_OF if kind in best), None)
        if kind is None:
            return None
        score, label = best[kind]
        return Text(f"best {'of those run now' if self._done_before else 'so far'}: {score.text}  {label}")

    def _reasons(self, now: float) -> Text | None:
        """Why runs wait, and how long the next of them does."""
        if not self._waiting:
            return None
        counted = Counter(why for why, _ in self._waiting.values()).most_common()
        due = [until for _, until in self._waiting.values() if until is not None and until > now]
        again = f"; tried again in {duration_text(min(due) - now)}" if due else ""
        why = _named([f"{why} ({count})" if count > 1 else why for why, count in counted])
        return Text(f"waiting: {why}{again}", style="yellow")


def plain(text: str) -> str:
    """The text on one line, without what would move a cursor."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def _named(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])


def _compare(best: dict[str, tuple[Score, str]], found: Sequence[Score], label: str) -> None:
    """Keep the better one of each kind."""
    for score in found:
        if math.isfinite(score.value) and (score.kind not in best or score.value > best[score.kind][0].value):
            best[score.kind] = (score, label)

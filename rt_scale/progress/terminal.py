"""The live view of a sweep: a line per finished run and, in a terminal or notebook, a table of running runs."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, Task
from rich.text import Text

from rt_scale.progress.bars import CLASSIFIER, Score, probe_text, scores
from rt_scale.progress.rows import SweepProgress
from rt_scale.scheduler.job import View
from rt_scale.system.console import PlainConsole, broken, duration_text

if TYPE_CHECKING:
    from rt_scale.scheduler.job import RunReport

WINDOW = 60.0
"""Seconds over which concurrent runs are counted: a slot is empty for a moment between two runs."""
DONE, FAILED, STOPPED = "done", "failed", "stopped early"
BEST_OF = ("linear", "knn", CLASSIFIER)
"""Runs are compared by the first of these scores that any run has."""
NAMED = 4
"""Most devices or reasons in one line."""


class SweepState:
    """State of the runs of a sweep; control characters in labels and reasons become spaces.

    ``progress`` holds a task for each running run, with fields ``where``, ``stage`` and ``scores``, and the clock.
    """

    def __init__(self, total: int, done_before: int, progress: Progress) -> None:
        self.total, self._done_before, self._progress = total, done_before, progress
        self._started = progress.get_time()
        self._running: dict[str, Task] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._waiting: dict[str, tuple[str, float | None]] = {}
        self._spent: dict[str, float] = {}
        self._finished: set[str] = set()
        self._states: Counter[str] = Counter()
        self.preemptions = 0
        self._durations: list[float] = []
        self._best: dict[str, tuple[Score, str]] = {}
        self._counts_seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def report(self, label: str, report: RunReport) -> None:
        """Take a run's report; ignored once the run is finished."""
        if label in self._finished:
            return
        self._waiting.pop(label, None)
        if label not in self._running:
            self._progress.add_task(plain(label), total=None, where="", stage="", scores=())
            self._running[label] = self._progress.tasks[-1]
            self._count_running()
        values = self._values.setdefault(label, {})
        values.update(report.values)
        task = self._running[label]
        if report.step < task.completed:
            self._progress.reset(task.id)  # it went back to a checkpoint
        self._progress.update(
            task.id, total=report.steps or None, completed=report.step, where=plain(report.where),
            stage=plain(report.stage), scores=scores(values),
        )  # fmt: skip

    def wait(self, label: str, why: str, seconds: float | None) -> bool:
        """A run returned to the queue; returns whether it was running."""
        if label in self._finished:
            return False
        again = None if seconds is None else self._progress.get_time() + seconds
        self._waiting[label] = (plain(why), again)
        return self._leave(label) is not None

    def finish(
        self, label: str, state: str, how: str = "", values: Mapping[str, float] | None = None, by: str = ""
    ) -> str:
        """A run ended as ``state``; returns a line with its number, ``how``, accuracies, and time and place or ``by``.

        The line is empty if the run had ended before.
        """
        if label in self._finished:
            return ""
        task = self._leave(label)
        self._waiting.pop(label, None)
        self._finished.add(label)
        self._states[state] += 1
        last = {**self._values.pop(label, {}), **(values or {})}
        spent = self._spent.pop(label, None)
        line = [f"[{self._done_before + len(self._finished)}/{self.total}] {plain(label)}", plain(how)]
        if state != FAILED:
            _compare(self._best, scores(last), plain(label))
            self._durations += [] if spent is None or by else [spent]
            where = f" on {task.fields['where']}" if task is not None and task.fields["where"] else ""
            here = "" if spent is None else f"{duration_text(spent)}{where}"
            line += [probe_text(last), f"by {plain(by)}" if by else here]
        return "  ".join(part for part in line if part)

    @property
    def counts(self) -> dict[str, int]:
        """Runs in all, and by how they came out: done, failed, ended early; and how often a run was preempted."""
        states = self._states
        done = self._done_before + states[DONE]
        ends = {"done": done, "failed": states[FAILED], "ended": states[STOPPED]}
        return {"runs": self.total, **ends, "preempted": self.preemptions}

    def _leave(self, label: str) -> Task | None:
        task = self._running.pop(label, None)
        if task is not None:
            self._progress.remove_task(task.id)
            self._spent[label] = self._spent.get(label, 0.0) + (task.elapsed or 0.0)
            self._count_running()
        return task

    def _count_running(self) -> None:
        self._counts_seen.append((self._progress.get_time(), len(self._running)))

    def _slots(self) -> int:
        """The most concurrent runs within the last ``WINDOW`` seconds; at least 1."""
        seen = self._counts_seen
        while len(seen) > 1 and seen[1][0] <= self._progress.get_time() - WINDOW:
            seen.popleft()
        return max(1, *(count for _, count in seen))

    def notes(self) -> list[Text]:
        """The lines of the summary, the most important first."""
        return [note for note in (self._counts(), self._times(), self._leader(), self._reasons()) if note is not None]

    def line(self) -> str:
        """The summary in one line, with the devices, as a pipe has no rows that show them."""
        places = [*dict.fromkeys(task.fields["where"] for task in self._progress.tasks if task.fields["where"])]
        devices = [f"running on {_named(places)}"] if places else []
        return "; ".join([*(note.plain for note in self.notes()), *devices])

    @property
    def _queued(self) -> int:
        return self.total - self._done_before - len(self._finished) - len(self._running) - len(self._waiting)

    def _counts(self) -> Text:
        text = Text(f"{self._done_before + self._states[DONE]} of {self.total} {DONE}")
        for count, words, style in (
            (len(self._running), "running", ""),
            (self._states[FAILED], FAILED, "bold red"),
            (self._states[STOPPED], STOPPED, ""),
            (len(self._waiting), "waiting", "yellow"),
            (self._queued, "to start", ""),
            (self.preemptions, "preempted so far", ""),
        ):
            if count:
                text.append(", ").append(f"{count} {words}", style=style)
        return text

    def _times(self) -> Text:
        spent = self._progress.get_time() - self._started
        text = f"{duration_text(spent)} so far"
        ended = self._states[DONE] + self._states[STOPPED]
        if ended and spent > 0:
            rate = 3600 * ended / spent
            text += f", {rate:,.{0 if rate >= 10 else 1}f} runs an hour"
        queued = self._queued + len(self._waiting)
        if queued or self._running:
            usual = sum(self._durations) / len(self._durations) if self._durations else None
            left = time_left(self._progress.tasks, queued=queued, slots=self._slots(), usual=usual)
            text += f", {left or 'time left not known yet'}"
        return Text(text)

    def _leader(self) -> Text | None:
        best = dict(self._best)
        for task in self._progress.tasks:
            _compare(best, task.fields["scores"], task.description)
        kind = next((kind for kind in BEST_OF if kind in best), None)
        if kind is None:
            return None
        score, label = best[kind]
        return Text(f"best {'of those run now' if self._done_before else 'so far'}: {score.text}  {label}")

    def _reasons(self) -> Text | None:
        """Why runs wait, and when the next one is retried."""
        if not self._waiting:
            return None
        now = self._progress.get_time()
        counted = Counter(why for why, _ in self._waiting.values()).most_common()
        due = [until for _, until in self._waiting.values() if until is not None and until > now]
        again = f"; tried again in {duration_text(min(due) - now)}" if due else ""
        why = _named([f"{why} ({count})" if count > 1 else why for why, count in counted])
        return Text(f"waiting: {why}{again}", style="yellow")


def time_left(running: Sequence[Task], *, queued: int, slots: int, usual: float | None) -> str:
    """The time until the last run ends, in words, if each free slot takes the next run at once.

    ``usual`` is the mean duration of a finished run in seconds. Returns ``at least ...`` if the estimate counts only
    steps, and not e.g. probing; empty if nothing is known.
    """
    whole = [task.total / task.speed for task in running if task.total and task.speed]
    if usual is None and not whole:
        return ""
    one = usual if usual is not None else sum(whole) / len(whole)
    left = [task.time_remaining for task in running]
    guessed = [max(0.0, one - (task.elapsed or 0.0)) for task in running]
    free = sorted(guess if seconds is None else seconds for seconds, guess in zip(left, guessed, strict=True))
    free = [0.0] * (slots - len(free)) + free
    rounds, more = divmod(queued, len(free))
    ends = [start + one * (rounds + (place < more)) for place, start in enumerate(free)]
    measured = usual is not None or (None not in left and not queued)
    return f"{'about' if measured else 'at least'} {duration_text(max(ends))} left"


def plain(text: str) -> str:
    """The text on one line, without control characters."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def _named(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])


def _compare(best: dict[str, tuple[Score, str]], found: Sequence[Score], label: str) -> None:
    for score in found:
        if math.isfinite(score.value) and (score.kind not in best or score.value > best[score.kind][0].value):
            best[score.kind] = (score, label)


QUIET = 30.0
"""Least seconds between two summaries in a pipe."""
REFRESH = 0.25
"""Least seconds between two redraws in a terminal."""


class SweepView(View):
    """Prints a line per finished run and draws running runs and a summary below (a View and a context manager).

    In a pipe it prints the summary at times. ``log``, the file of Ray's messages, is named first. ``failed`` is called
    with the label of each run that fails, why, and the number of runs in all and by state.
    """

    def __init__(
        self,
        console: PlainConsole,
        total: int,
        done_before: int,
        log: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str, str, Mapping[str, int]], None] = lambda label, why, counts: None,
    ) -> None:
        self._console, self._clock, self._log, self._failed = console, clock, log, failed
        self._draws = (console.is_terminal and console.is_interactive) or console.is_jupyter
        self._drawn = self._summed = clock()
        self.progress = SweepProgress(console, clock)
        self._state = SweepState(total, done_before, self.progress)
        self.progress.notes = self._state.notes

    def __enter__(self) -> SweepView:
        if self._log is not None:
            self.said(f"Ray's log: {self._log}")
        if self._draws:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.live.stop()

    def running(self, label: str, report: RunReport) -> None:
        """Update the row of a run, and print its warnings."""
        if report.warnings:
            self._print(f"warning {plain(label)}: {plain(' '.join(report.warnings))}", "yellow")
        self._state.report(label, report)
        self.tick()

    def waiting(self, label: str, why: str, seconds: float | None, *, leased_elsewhere: bool = False) -> None:
        """Count a run as waiting; print a line, unless it runs elsewhere, as ``why`` says, and was not running here."""
        had_been_running = self._state.wait(label, f"run by {why}" if leased_elsewhere else why, seconds)
        if had_been_running and leased_elsewhere:
            self._print(f"held {plain(label)}: by {plain(why)}", "yellow")
        elif not leased_elsewhere:
            again = "" if seconds is None else f", again in {duration_text(seconds)}"
            self._print(f"waiting {plain(label)}: {plain(why)}{again}", "yellow")
        self.tick()

    def preempted(self, label: str, why: str, seconds: float | None) -> None:
        """Count a run as waiting, and its preemption; print a line."""
        self._state.preemptions += 1
        self._state.wait(label, why, seconds)
        again = "at once" if seconds is None else f"in {duration_text(seconds)}"
        self._print(f"preempted {plain(label)}: {plain(why)}; it continues from its last checkpoint {again}", "yellow")
        self.tick()

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None, by: str = "") -> None:
        """Turn the row of a run into a line."""
        if error is None:
            self._print(self._state.finish(label, DONE, values=values, by=by))
        elif line := self._state.finish(label, FAILED, f"FAILED: {error}"):
            self._print(line, "red")
            self._failed(label, error, self._state.counts)
        self.tick()

    def stopped(self, label: str, why: str) -> None:
        """Turn the row of a run that was ended early into a line."""
        self._print(self._state.finish(label, STOPPED, f"{STOPPED}: {why}"))
        self.tick()

    def added(self, count: int) -> None:
        """Count more runs, or fewer."""
        self._state.total += count
        self.tick()

    def tick(self) -> None:
        """Redraw in a terminal; in a pipe, print a summary every ``QUIET`` seconds."""
        now = self._clock()
        if self._draws:
            if now - self._drawn >= REFRESH:
                self._drawn = now
                self.progress.live.refresh()
        elif now - self._summed >= QUIET:
            self._summed = now
            self._print(self._state.line())

    def said(self, text: str) -> None:
        """Print the text as a line."""
        self._print(plain(text), "dim")

    def _print(self, text: str, style: str = "") -> None:
        if text:  # a pipe gets it in one line
            lines = broken(text, self._console.width, indent=4) if self._draws else [text]
            self._console.print(Text("\n".join(lines), style=style), soft_wrap=True)

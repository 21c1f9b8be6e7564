"""How the runs of a report stand: what is being executed, where, how far it is, and the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rt_scale.report.status import StatusRow
from rt_scale.spec.errors import RunError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.run import RunSpec
from rt_scale.spec.training import TrainSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunRecord
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.system.console import duration_text

_WORDS = {
    "running": "running", "failed": "failed", "ended": "ended early", "partial": "interrupted", "missing": "to start",
}  # fmt: skip


@dataclass(frozen=True)
class RunningRow:
    """A run that is being executed; a text is empty where its directory does not tell.

    Attributes:
        label: what distinguishes it from the others.
        where: its device and its machine.
        progress: epochs done as of its last checkpoint, e.g. ``3 of 10``.
        left: the time left at the speed of this attempt, e.g. ``2m 10s``.
    """

    label: str
    name: str
    where: str = ""
    progress: str = ""
    left: str = ""


@dataclass(frozen=True)
class RunsNow:
    """How the runs stand now.

    Attributes:
        counts: in words, e.g. ``3 of 9 done, 2 running, 4 to start``.
        over: whether every run has ended.
        page: differs whenever the rest of the page does.
    """

    running: Sequence[RunningRow]
    counts: str
    over: bool
    page: str


def running_rows(
    statuses: Sequence[StatusRow], specs: Mapping[str, RunSpec], store: Store, now: float
) -> list[RunningRow]:
    """The runs that are being executed, in order, with their ``specs`` by name; ``now`` in seconds since 1970."""
    return [_row(row, specs[row.name], store.run(row.name), now) for row in statuses if row.state == "running"]


def _row(status: StatusRow, spec: RunSpec, run: RunDir, now: float) -> RunningRow:
    with suppress(RunError):  # a file that is being downloaded, or is damaged: the next look may read it
        if (record := run.record()) is not None:
            train = spec.train if isinstance(spec, TrainingSpec) else None
            rows = read_metrics(run.metrics_path).to_pydict()
            progress, left = ("", "") if train is None else _progress(train, rows, record.attempts[-1].time, now)
            return RunningRow(status.label, status.name, _where(record), progress, left)
    return RunningRow(status.label, status.name)


def _where(record: RunRecord) -> str:
    attempt = record.attempts[-1]
    device = f"{record.execution.device} ({attempt.device})" if attempt.gpu else record.execution.device
    return f"{device} on {attempt.host}" if attempt.host else device


def _progress(train: TrainSpec, rows: Mapping[str, Sequence[Any]], since: float | None, now: float) -> tuple[str, str]:
    """Epochs done, and the time left by the measurements of an attempt that began at ``since``."""
    measured = list(zip(rows["time"], rows["step"], rows["epoch"], strict=True))
    time, step, epoch = measured[-1] if measured else (now, 0, 0.0)
    if not epoch:
        return f"0 of {train.epochs}", ""
    steps_per_epoch = round(step / epoch)
    end = train.end(steps_per_epoch)
    progress = f"{epoch:.3g} of {end / steps_per_epoch:.3g}"
    first = next((each for each in measured if since is not None and each[0] >= since), (time, step, epoch))
    if first[1] == step:
        return progress, ""
    seconds = (time - first[0]) / (step - first[1]) * (end - step) - max(0.0, now - time)
    return progress, duration_text(max(1.0, seconds))


def counts_text(statuses: Sequence[StatusRow], to_sample: int) -> str:
    """How many runs are done, of all, and in each other state; ``to_sample``: by a search, and not listed."""
    counts = Counter(row.state for row in statuses)
    counts["missing"] += to_sample
    rest = [f"{counts[state]} {words}" for state, words in _WORDS.items() if counts[state]]
    return ", ".join([f"{counts['done']} of {counts.total()} done", *rest])

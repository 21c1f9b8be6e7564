"""The event files of a run, and what they are made of: records by TensorBoard's own writer, settings that it can hold.

A run's folder holds event files that TensorBoard reads in the order of their names: ``1-start`` (its settings),
``2-scalars-<number>`` (its curves, a file an attempt) and ``3-end`` (how it ended). An attempt's file takes back what
the files before it said, and begins with what was measured up to the checkpoint that it goes on from: so nothing is
shown twice, and a record that a killed writer left torn does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Literal

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from rt_scale.store.atomic import disk_errors, write_bytes, write_if_changed
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import EVENTS
from rt_scale.system.files import remove

START, SCALARS, END = (EVENTS + name for name in ("1-start", "2-scalars", "3-end"))
Setting = bool | int | float | str


class BoardWriter:
    """Writes the curves of one run; for the holder of the run's lease. Closes as a context manager, too."""

    def __init__(self, run: Path, earlier: MetricsTable | None = None) -> None:
        """Begin the event file of an attempt in the folder ``run``.

        Args:
            run: the run's folder.
            earlier: what was measured up to the checkpoint that the run goes on from; None where it starts anew.

        Raises:
            InputError, RunError: where the disk refuses or is full.
        """
        self._run = run
        remove(run / END)
        before = sorted(run.glob(f"{SCALARS}*"))
        number = before[-1].name.rpartition("-")[2] if before else "0"
        self.path = run / f"{SCALARS}-{int(number) + 1 if number.isdigit() else 1:04d}"
        with disk_errors(self.path):
            run.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        points = [] if earlier is None else earlier.points()
        self._write(*_beginning(time.time()), *(_scalars(*point) for point in points))
        for path in before[:-1]:  # A server may be in the middle of the last one.
            remove(path)

    def _write(self, *events: Event) -> None:
        with disk_errors(self.path):
            for event in events:
                self._records.write(event.SerializeToString())
            self._records.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the point ``step`` to the curve of every tag in ``values``; readable at once by TensorBoard."""
        self._write(_scalars(step, time.time(), values))

    def settings(self, spec: Mapping[str, object]) -> None:
        """Record the run's settings for the HParams view; ``spec`` may be nested."""
        now = time.time()
        summary = summary_v2.hparams_pb(flat_settings(spec), trial_id=self._run.name, start_time_secs=now)
        write_if_changed(self._run / START, summary_file(summary, now))

    def close(self, status: Literal["done", "failed"] | None = None) -> None:
        """Close the files, and record how the run ended; None where it is to go on later."""
        if self._file.closed:
            return
        self._file.close()
        if status is not None:
            code = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
            now = time.time()
            end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=now)
            data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
            summary = Summary()
            summary.value.add(
                tag=metadata.SESSION_END_INFO_TAG,
                metadata=metadata.create_summary_metadata(data),
                tensor=metadata.NULL_TENSOR,
            )
            write_if_changed(self._run / END, summary_file(summary, now))

    def __enter__(self) -> BoardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _scalars(step: int, wall_time: float, values: Mapping[str, float]) -> Event:
    summary = Summary()
    for tag, value in values.items():
        summary.MergeFrom(scalar_pb(tag, value))
    return Event(wall_time=wall_time, step=step, summary=summary)


def _beginning(wall_time: float) -> list[Event]:
    """The first records of a file that takes back what the files before it said."""
    restart = SessionLog(status=SessionLog.START)
    return [Event(wall_time=wall_time, file_version="brain.Event:2"), Event(wall_time=wall_time, session_log=restart)]


def event_files(run: Path) -> list[Path]:
    """The event files in a run's folder, in the order in which TensorBoard reads them."""
    return sorted(run.glob(f"{EVENTS}*"))


def summary_file(summary: Summary, wall_time: float) -> bytes:
    """A whole event file with one summary, dated ``wall_time`` (seconds since 1970)."""
    version, _ = _beginning(wall_time)
    return _event_file([version, Event(wall_time=wall_time, summary=summary)])


def _event_file(events: Iterable[Event]) -> bytes:
    records = RecordWriter(file := BytesIO())
    for event in events:
        records.write(event.SerializeToString())
    return file.getvalue()


def renew_events(folder: Path, kind: str, newest: int, state: object, events: Callable[[], Sequence[Event]]) -> None:
    """Bring the derived events in a run's folder up to date; where their state has not changed, none are made.

    A server that is showing the run never looks again at a file that it has read: changed events are a new file, whose
    name is later, and whose first record takes back what the one before it said.

    Args:
        folder: the run's folder.
        kind: what they are, as a part of the files' names; what was of another kind is removed.
        newest: when what they are made from last changed, nanoseconds since 1970; the names are in this order.
        state: what they are made from, by its ``repr``.
        events: makes the records, from the first step on; none remove what was there.
    """
    prefix = f"{EVENTS}2-{kind}-"
    name = f"{prefix}{newest:020d}-{short_digest(state)}"
    if (folder / name).exists():
        return
    kept = set()
    if made := events():
        write_bytes(folder / name, _event_file([*_beginning(0.0), *made]))
        earlier = [path.name for path in folder.glob(f"{prefix}*") if path.name < name]
        # The server may be in the middle of the one before.
        kept = {name, max(earlier, default=name)}
    for path in folder.glob(f"{EVENTS}2-*"):
        if path.name not in kept:
            remove(path)


def short_digest(value: object) -> str:
    """Twelve hexadecimal digits that stand for a value's ``repr``."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def stat_file(path: Path) -> os.stat_result | None:
    """Size and date of a file; None where it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


def flat_settings(spec: Mapping[str, object], prefix: str = "") -> dict[str, Setting]:
    """Nested settings as dotted name -> bool, number or text; lists become text, and None is left out."""
    flat: dict[str, Setting] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def folder_name(label: str) -> str:
    """``label`` as the name of one folder, short enough for every file system."""
    name = label.replace("/", "_").replace(os.sep, "_").lstrip(".") or "run"
    if len(name.encode()) > 200:
        start = name.encode()[:150].decode(errors="ignore")
        name = f"{start}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return name


def typed_columns(rows: Sequence[Mapping[str, Setting]]) -> dict[str, list[Setting | None]]:
    """The settings of all rows by key: each key's values are all booleans, all numbers or all text.

    TensorBoard hides rows whose value is of another type than the column's. None where a row has no such key.
    """
    columns: dict[str, list[Setting | None]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        kinds = {type(row[key]) for row in rows if key in row}
        plain = kinds == {bool} or kinds <= {int, float}
        columns[key] = [(row[key] if plain else str(row[key])) if key in row else None for row in rows]
    return columns

"""The event files of a run, written with TensorBoard's own record writer.

TensorBoard reads them in the order of their names: ``1-start`` (hyperparameters), ``2-scalars-<number>`` (curves, one
file per attempt) and ``3-end`` (how it ended). An attempt's file replaces the earlier ones: it begins with the values
up to its checkpoint. So nothing is shown twice, and a record that a killed writer left incomplete does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
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
from rt_scale.tensorboard.settings import flat_settings

START, SCALARS, END = (EVENTS + name for name in ("1-start", "2-scalars", "3-end"))


class BoardWriter:
    """Writes the curves of one run, whose lease the caller must hold."""

    def __init__(self, run: Path, earlier: MetricsTable | None = None) -> None:
        """Begin the event file of an attempt in the folder ``run``.

        ``earlier`` holds the values up to the checkpoint that the run resumes from; None if it starts from scratch.

        Raises:
            InputError, RunError: if the disk refuses or is full.
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
        for path in before[:-1]:  # A server may be reading the last one.
            remove(path)

    def _write(self, *events: Event) -> None:
        with disk_errors(self.path):
            for event in events:
                self._records.write(event.SerializeToString())
            self._records.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the point ``step`` to the curve of every tag in ``values``, and flush it."""
        self._write(_scalars(step, time.time(), values))

    def hyperparameters(self, spec: Mapping[str, object]) -> None:
        """Record the run's spec, which may be nested, for the HParams view."""
        now = time.time()
        summary = summary_v2.hparams_pb(flat_settings(spec), trial_id=self._run.name, start_time_secs=now)
        write_if_changed(self._run / START, summary_file(summary, now))

    def close(self, status: Literal["done", "failed"] | None = None) -> None:
        """Close the file, and record how the run ended; None if it will resume later."""
        if self._file.closed:
            return
        self._file.close()
        if status is not None:
            code = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
            now = time.time()
            end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=now)
            data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
            value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR)
            write_if_changed(self._run / END, summary_file(Summary(value=[value]), now))


def _scalars(step: int, wall_time: float, values: Mapping[str, float]) -> Event:
    summary = Summary(value=[each for tag, value in values.items() for each in scalar_pb(tag, value).value])
    return Event(wall_time=wall_time, step=step, summary=summary)


def _beginning(wall_time: float) -> list[Event]:
    """The first records of a file that replaces the files before it."""
    restart = SessionLog(status=SessionLog.START)
    return [Event(wall_time=wall_time, file_version="brain.Event:2"), Event(wall_time=wall_time, session_log=restart)]


def event_files(run: Path) -> list[Path]:
    """The event files of a run, in the order in which TensorBoard reads them."""
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


def renew_events(
    folder: Path, kind: str, inputs: Mapping[str, Path], events: Callable[[Mapping[str, Path]], Sequence[Event]]
) -> None:
    """Update derived events in a folder, unless their inputs are unchanged.

    A running server never rereads a file, so changed events go to a new file with a later name, which replaces the
    previous one.

    Args:
        kind: part of the files' names; files of other kinds are removed.
        inputs: name -> file; those without a file are omitted.
        events: makes all records, from the first step on; if there are none, the files are removed.
    """
    found: dict[str, os.stat_result] = {}
    for name, path in inputs.items():
        with contextlib.suppress(FileNotFoundError):
            found[name] = path.stat()
    state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found.items()]
    newest = max((mtime for *_, mtime in state), default=0)
    prefix = f"{EVENTS}2-{kind}-"
    name = f"{prefix}{newest:020d}-{short_digest(state)}"
    if (folder / name).exists():
        return
    kept = set()
    if made := events({name: inputs[name] for name in found}):
        write_bytes(folder / name, _event_file([*_beginning(0.0), *made]))
        earlier = [path.name for path in folder.glob(f"{prefix}*") if path.name < name]
        # A server may be reading the previous one.
        kept = {name, max(earlier, default=name)}
    for path in folder.glob(f"{EVENTS}2-*"):
        if path.name not in kept:
            remove(path)


def short_digest(value: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value's ``repr``."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def folder_name(label: str) -> str:
    """``label`` as a folder name, at most 200 bytes."""
    name = label.replace("/", "_").replace(os.sep, "_").lstrip(".") or "run"
    if len(name.encode()) > 200:
        start = name.encode()[:150].decode(errors="ignore")
        name = f"{start}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return name

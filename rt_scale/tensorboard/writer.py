"""TensorBoard: the curves of a run.

A run's folder holds up to three event files with fixed names, which TensorBoard reads in this
order: ``1-start`` (its settings), ``2-scalars`` (its curves; later attempts append), ``3-end``
(how it ended).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from rt_scale.store.atomic import disk_errors, write_bytes, write_if_changed
from rt_scale.store.run_dir import EVENTS
from rt_scale.system.files import remove
from rt_scale.tensorboard.crc32c import masked_crc32c
from rt_scale.tensorboard.hparams import flat_settings

START, SCALARS, END = (EVENTS + name for name in ("1-start", "2-scalars", "3-end"))


class BoardWriter:
    """Writes the curves of one run; for the holder of the run's lease. Closes as a context manager, too."""

    def __init__(self, run: Path, resume_step: int | None = None) -> None:
        """Open the event files in the folder ``run``.

        Args:
            run: the run's folder.
            resume_step: optimiser steps of the checkpoint that the run goes on from: curves up to and
                including it are kept, later points are superseded; None where the run starts anew.

        Raises:
            InputError, RunError: where the disk refuses or is full.
        """
        self._run = run
        remove(run / END)
        with disk_errors(run / SCALARS):
            run.mkdir(parents=True, exist_ok=True)
            _cut_torn_record(run / SCALARS)
            self._file = open(run / SCALARS, "ab")  # noqa: SIM115
            if self._file.tell() == 0:
                self._file.write(_record(_version(time.time())))
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = 0 if resume_step is None else resume_step + 1
            self._write(event_pb2.Event(wall_time=time.time(), step=first, session_log=session))

    def _write(self, event: Any) -> None:
        with disk_errors(self._run / SCALARS):
            self._file.write(_record(event.SerializeToString()))
            self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the point ``step`` to the curve of every tag in ``values``; readable at once by TensorBoard."""
        summary = summary_pb2.Summary()
        for tag, value in values.items():
            summary.MergeFrom(scalar_pb(tag, value))
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def settings(self, spec: Mapping[str, Any]) -> None:
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
            summary = summary_pb2.Summary()
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


def _version(wall_time: float) -> bytes:
    record: bytes = event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString()
    return record


def event_file(events: Iterable[Any], wall_time: float) -> bytes:
    """A whole event file with these ``Event`` records, dated ``wall_time`` (seconds since 1970)."""
    return b"".join(map(_record, [_version(wall_time), *(event.SerializeToString() for event in events)]))


def _record(data: bytes) -> bytes:
    """The data of one event between its length and its checksum, as in tensorflow/core/lib/io/record_writer.h."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def summary_file(summary: Any, wall_time: float) -> bytes:
    """A whole event file with one summary, dated ``wall_time`` (seconds since 1970)."""
    return event_file([event_pb2.Event(wall_time=wall_time, summary=summary)], wall_time)


def renew_events(folder: Path, kind: str, newest: int, state: object, events: Callable[[], Sequence[Any]]) -> None:
    """Bring the derived events in a run's folder up to date; where their state has not changed, none are made.

    A server that is showing the run never looks again at a file that it has read: changed events are a new file, whose
    name is later, and whose first record takes back what the one before it said.

    Args:
        folder: the run's folder.
        kind: what they are, as a part of the files' names; what was of another kind is removed.
        newest: when what they are made from last changed, nanoseconds since 1970; the names are in this order.
        state: what they are made from, by its ``repr``.
        events: makes the ``Event`` records, from the first step on; none remove what was there.

    Raises:
        InputError, RunError: where the disk refuses or is full.
    """
    prefix = f"{EVENTS}2-{kind}-"
    name = f"{prefix}{newest:020d}-{short_digest(state)}"
    if (folder / name).exists():
        return
    kept = set()
    if made := events():
        restart = event_pb2.Event(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        write_bytes(folder / name, event_file([restart, *made], 0.0))
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


def _cut_torn_record(path: Path) -> None:
    """Shorten an event file to its last whole record, so that what is appended can be read."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = 0
    while end + 12 <= len(data):
        length, length_crc = struct.unpack_from("<QI", data, end)
        stop = end + 12 + length + 4
        if masked_crc32c(data[end : end + 8]) != length_crc or stop > len(data):
            break
        if masked_crc32c(data[end + 12 : stop - 4]) != struct.unpack_from("<I", data, stop - 4)[0]:
            break
        end = stop
    if end < len(data):
        os.truncate(path, end)

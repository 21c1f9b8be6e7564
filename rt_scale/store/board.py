"""TensorBoard: the curves of a run, the comparison view of a sweep, and the server that shows them.

A run's folder holds up to three event files with fixed names, which TensorBoard reads in this
order: ``1-start`` (its settings), ``2-scalars`` (its curves; later attempts append), ``3-end``
(how it ended). A sweep's view has a folder for each run: settings limited to what the sweep varies
and grouped over its seeds, beside links to the run's curves and end. So a run can be part of many
sweeps, and a view is always derived: it can be removed and built again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import disk_errors, link_relatively, remove, write_if_changed
from rt_scale.store.settings import Setting, flat_settings, folder_name, typed_columns

_PREFIX = "events.out.tfevents."
EXPERIMENT, START, SCALARS, END = (_PREFIX + name for name in ("0-sweep", "1-start", "2-scalars", "3-end"))


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
            self._records = RecordWriter(self._file)
            if self._file.tell() == 0:
                self._records.write(_version(time.time()))
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = 0 if resume_step is None else resume_step + 1
            self._write(event_pb2.Event(wall_time=time.time(), step=first, session_log=session))

    def _write(self, event: Any) -> None:
        with disk_errors(self._run / SCALARS):
            self._records.write(event.SerializeToString())
            self._records.flush()

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
        write_if_changed(self._run / START, _event_file(summary, now))

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
            write_if_changed(self._run / END, _event_file(summary, now))

    def __enter__(self) -> BoardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _version(wall_time: float) -> bytes:
    record: bytes = event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString()
    return record


def _event_file(summary: Any, wall_time: float) -> bytes:
    """A whole event file with one summary, dated ``wall_time`` (seconds since 1970)."""
    buffer = BytesIO()
    records = RecordWriter(buffer)
    records.write(_version(wall_time))
    records.write(event_pb2.Event(wall_time=wall_time, summary=summary).SerializeToString())
    return buffer.getvalue()


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


@dataclass(frozen=True)
class BoardRun:
    """A run in the view of a sweep.

    Attributes:
        label: its name there, unique, e.g. ``alpha=0.5,seed=3``.
        group: name of its configuration; runs of one group, the seeds, are averaged in the HParams view.
        folder: the run's folder; it need not exist yet.
        values: what the sweep varies: axis -> value; equal within a group.
    """

    label: str
    group: str
    folder: Path
    values: Mapping[str, Any]


def build_sweep_board(board: Path, runs: Sequence[BoardRun], metrics: Sequence[str]) -> None:
    """Bring the view in the folder ``board`` up to date; cheap where little has changed.

    Args:
        board: a folder that is for this alone; what does not belong to the view is removed.
        runs: the sweep's runs, in the order in which they are listed.
        metrics: tags of the scalars that become columns of the HParams view.

    Raises:
        ValueError: where two runs have one label.
        InputError, RunError: where the disk refuses or is full.
    """
    names = [folder_name(run.label) for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"labels must differ: {sorted(name for name in names if names.count(name) > 1)}")
    columns = typed_columns([flat_settings(run.values) for run in runs])
    with disk_errors(board):
        board.mkdir(parents=True, exist_ok=True)
        for entry in set(os.listdir(board)) - {EXPERIMENT, *names}:
            remove(board / entry)
    write_if_changed(board / EXPERIMENT, _event_file(_experiment(columns, metrics), 0.0))
    for position, (name, run) in enumerate(zip(names, runs, strict=True)):
        values = {key: column[position] for key, column in columns.items() if column[position] is not None}
        # Dated by position: TensorBoard lists runs by their start, and an unchanged view keeps its bytes.
        date = float(position + 1)
        summary = summary_v2.hparams_pb(values, trial_id=run.group, start_time_secs=date)
        write_if_changed(board / name / START, _event_file(summary, date))
        for file in (SCALARS, END):
            link_relatively(run.folder / file, board / name / file)


def _experiment(columns: Mapping[str, Sequence[Setting | None]], metrics: Sequence[str]) -> Any:
    axes = []
    for key, column in columns.items():
        values = {float(value) if type(value) is int else value for value in column if value is not None}
        axes.append(summary_v2.HParam(key, summary_v2.Discrete(values)))
    columns_shown = [summary_v2.Metric(tag) for tag in metrics]
    return summary_v2.hparams_config_pb(axes, columns_shown, time_created_secs=0.0)


def serve(
    logdir: Path,
    ready: Callable[[str], None],
    *,
    port: int | None = None,
    host: str = "localhost",
    refresh: Callable[[], None] | None = None,
    interval: float = 5.0,
) -> None:
    """Show ``logdir`` in TensorBoard until interrupted (Ctrl-C).

    Args:
        logdir: folder of a sweep's view, or of runs.
        ready: called once with the address to open.
        port: where to listen; 0: any free port; None: 6006 or the next free one.
        host: interface to listen on.
        refresh: called every ``interval`` seconds, to link runs that have begun meanwhile.
        interval: seconds between refreshes, also TensorBoard's own.

    Raises:
        InputError: where the port is in use or not allowed.
    """
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    title = f"rt-scale: {logdir.absolute().parent.name if logdir.name == 'board' else logdir.name}"
    arguments = ["--logdir", str(logdir), "--host", host, "--window_title", title]
    arguments += ["--reload_interval", f"{interval:g}"] + ([] if port is None else ["--port", str(port)])
    server = program.TensorBoard(default.get_plugins())
    server.configure(argv=["tensorboard", *arguments])
    try:
        # It prints a note on how it loads data, whatever the level of its log.
        with contextlib.redirect_stderr(StringIO()):
            address = server.launch()
    except program.TensorBoardServerException as error:
        problem = error.msg.strip()
        raise InputError(f"TensorBoard cannot start: {problem} Choose another port with --port.") from error
    ready(address)
    try:
        while True:
            time.sleep(interval)
            if refresh is not None:
                refresh()
    except KeyboardInterrupt:
        return

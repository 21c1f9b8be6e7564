"""What an attempt at a run needs: directory, device, metrics, checkpoints and stop requests."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from rt_scale.experiments.base import Sets
from rt_scale.experiments.options import Options
from rt_scale.spec.errors import RtScaleError, RunError, StoreUnavailable
from rt_scale.spec.stopping import StopCheck
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import Execution
from rt_scale.store.run_dir import METRICS, RunDir
from rt_scale.tensorboard.writer import BoardWriter
from rt_scale.training.checkpoint import Spent

T = TypeVar("T")

SPENT = "spent.json"
"""File of a checkpoint: the time spent on the run until then."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 15.0
"""Seconds until a failed write to the store is tried again: at first, and at most; doubled in between."""
CHECKPOINT_RATE = 25e6
"""Most bytes a second of checkpoints after evaluations: a twentieth of the speed of disks."""


class Context:
    """One attempt at a run, on a single process or rank 0.

    Args:
        run_dir: the run's directory, whose lease this process holds.
        execution, options: resolved and given options.
        hparams: the spec as a nested mapping, for TensorBoard.
        data: the run's open data sets, if it has any.

    Attributes:
        device: torch's, of ``execution``.
        metrics: all metrics so far.
        spent_before: the time of earlier attempts.
    """

    def __init__(
        self,
        run_dir: RunDir,
        execution: Execution,
        options: Options,
        hparams: Mapping[str, Any],
        data: Sets | None = None,
    ) -> None:
        self.run_dir, self.execution, self.options, self.hparams = run_dir, execution, options, hparams
        self.data, self.device = data, torch.device(execution.device)
        self.observer, self.group, self.stop = options.observer, options.group, options.stop
        self.checkpoint_seconds = options.checkpoint_seconds
        self.metrics = MetricsTable(run_dir.metrics_path)
        self.spent_before = Spent()
        self.board: BoardWriter | None = None
        self._slower: set[str] = set()
        self._started = self._last_checkpoint = time.monotonic()
        self._checkpoint_bytes = 0

    @property
    def check_stop(self) -> StopCheck:
        """A check that raises Stopped on all ranks once one is asked to stop; all call it at the same points."""
        return self.group.stop_check(self.stop)

    @property
    def spent(self) -> Spent:
        """The run's time up to now, over all attempts."""
        return self.spent_before.plus(time.monotonic() - self._started, *self.execution.held)

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Record metrics in the metrics table and TensorBoard, and show them."""
        self.metrics.append(step, epoch, values)
        if (board := self.board) is not None:
            self.patiently(lambda: board.scalars(step, values))
        self.observer.logged(step, epoch, values)

    def slower(self, part: str, reason: str) -> None:
        """Record and warn, once for each ``part`` of the run, that it uses a slower method, with the reason."""
        if part not in self._slower:
            self._slower.add(part)
            self._record_slower(part, reason)
            self.observer.warned(f"The {part} is slower than it could be: {reason}. It changes no number.")

    def _record_slower(self, part: str, reason: str) -> None:
        if (record := self.run_dir.record()) is not None:
            *earlier, attempt = record.attempts
            attempt = attempt.model_copy(update={"slower": {**attempt.slower, part: reason}})
            changed = record.model_copy(update={"attempts": [*earlier, attempt]})
            self.patiently(lambda: self.run_dir.write_record(changed))

    def patiently(self, write: Callable[[], T]) -> T:
        """The result of ``write``, repeated for ``options.patience_seconds`` while it raises StoreUnavailable."""
        until, delay = time.monotonic() + self.options.patience_seconds, FIRST_DELAY
        while True:
            try:
                return write()
            except StoreUnavailable as error:
                if time.monotonic() + delay > until:
                    raise
                self.observer.warned(f"{error} Training waits, and tries again in {delay:g} s.")
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    def checkpoint(self, step: int, writer: Callable[[Path], None]) -> None:
        """Write a checkpoint with the metrics so far; keeps the first and the two newest checkpoints.

        RunError if another process took the lease, or the disk is full.
        """
        self.patiently(self.metrics.flush)

        def write(folder: Path) -> None:
            writer(folder)
            (folder / METRICS).write_bytes(self.metrics.to_bytes())
            (folder / SPENT).write_text(json.dumps(asdict(self.spent)))
            self._checkpoint_bytes = sum(file.stat().st_size for file in folder.iterdir())

        self.patiently(lambda: self.run_dir.save_checkpoint(step, write))
        self.patiently(lambda: self.run_dir.prune({0, *self.run_dir.checkpoints.steps()[-2:]}))
        self._last_checkpoint = time.monotonic()

    def artifact(self, name: str, data: bytes) -> None:
        """Write the file ``name`` (npz, parquet or png) of the run's folder ``artifacts``, or replace it, atomically.

        Read it back from ``run_dir.artifacts``; it may be newer than the checkpoint that the run resumes from.
        """
        self.patiently(lambda: self.run_dir.save_artifact(name, data))

    def checkpoint_due(self, *, evaluated: bool) -> bool:
        """Whether to write another checkpoint: after ``checkpoint_seconds``, or earlier to keep an evaluation.

        Checkpoints after evaluations (``evaluated``) are limited by ``CHECKPOINT_RATE``.
        """
        least = self._checkpoint_bytes / CHECKPOINT_RATE if evaluated else math.inf
        return time.monotonic() - self._last_checkpoint >= min(self.checkpoint_seconds, least)

    def restore(self, load: Callable[[Path], T]) -> T | None:
        """The result of ``load`` on the newest undamaged checkpoint, whose metrics are restored; None without one."""

        def read(folder: Path) -> tuple[T, MetricsTable, Spent]:
            table = MetricsTable(self.run_dir.metrics_path, (folder / METRICS).read_bytes())
            kept = folder / SPENT  # earlier versions kept it with the optimiser
            spent = Spent(**json.loads(kept.read_bytes())) if kept.exists() else Spent()
            return load(folder), table, spent

        found = self.run_dir.latest_checkpoint(read, warn=self.observer.warned)
        self.group.broadcast(None if found is None else found[0])
        self.board = BoardWriter(self.run_dir.path, None if found is None else found[1][1])
        self.board.hyperparameters(self.hparams)
        if found is None:
            return None
        _, (value, self.metrics, self.spent_before) = found
        return value

    def close(self, status: Literal["done", "failed"] | None) -> None:
        """Close the TensorBoard file; ``None``: the run continues later, or another process took it over."""
        if self.board is None:
            return
        try:
            self.run_dir.check()
        except RunError:
            status = None
        self.board.close(status)
        if status == "failed" and len(self.metrics):
            # For the user only: the next attempt restores its checkpoint's metrics. An error here must not hide the
            # run's failure.
            with contextlib.suppress(RtScaleError):
                self.metrics.flush()


class Follower(Context):
    """The context of every other rank: it reads what rank 0 wrote, and writes nothing."""

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Rank 0 records the same numbers."""

    def _record_slower(self, part: str, reason: str) -> None:
        """Rank 0 keeps the record."""

    def checkpoint(self, step: int, writer: Callable[[Path], None]) -> None:
        """Rank 0 holds the same weights."""

    def artifact(self, name: str, data: bytes) -> None:
        """Rank 0 writes it."""

    def checkpoint_due(self, *, evaluated: bool) -> bool:
        """Rank 0 decides."""
        return False

    def restore(self, load: Callable[[Path], T]) -> T | None:
        """The result of ``load`` on the checkpoint that rank 0 restores; RunError if it cannot be read here."""
        step = self.group.broadcast(None)
        return None if step is None else self.run_dir.checkpoints.read(step, load)

    def close(self, status: Literal["done", "failed"] | None) -> None:
        """Nothing is open."""

"""What a running experiment holds: its directory, its device, and where its numbers go."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from rt_scale.experiments.options import Options, ResolvedOptions
from rt_scale.spec.errors import RtScaleError, RunError, StoreAway
from rt_scale.spec.stopping import StopCheck
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import METRICS, RunDir
from rt_scale.tensorboard.writer import BoardWriter
from rt_scale.training.checkpoint import Spent

T = TypeVar("T")

FIRST_DELAY, LONGEST_DELAY = 1.0, 15.0
"""Seconds until a write that the store did not take is tried again: first, and at most, doubled in between."""
CHECKPOINT_RATE = 25e6
"""Bytes of checkpoints a second of a run, at most, where evaluations ask for them: a twentieth of what disks write."""


class Context:
    """One attempt at a run.

    Args:
        run_dir: the run's directory, whose lease this process holds.
        execution: device and threads.
        options: who watches and asks to stop, and the processes that train together; this one is rank 0.
        hparams: the spec as a nested mapping, for TensorBoard.

    Attributes:
        metrics: every number so far.
        spent_before: the time that earlier attempts took.
    """

    def __init__(
        self, run_dir: RunDir, execution: ResolvedOptions, options: Options, hparams: Mapping[str, Any]
    ) -> None:
        self.run_dir, self.execution, self.options, self.hparams = run_dir, execution, options, hparams
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
        """Raises Stopped on all ranks once one is asked to stop; all of them call it at the same points."""
        return self.group.stop_check(self.stop)

    @property
    def spent(self) -> Spent:
        """The time that the run has taken up to now, over all attempts."""
        return self.spent_before.plus(time.monotonic() - self._started, *self.execution.held)

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Record numbers in the metrics table and TensorBoard, and show them."""
        self.metrics.append(step, epoch, values)
        if (board := self.board) is not None:
            self.patiently(lambda: board.scalars(step, values))
        self.observer.logged(step, epoch, values)

    def slower(self, part: str, reason: str) -> None:
        """Record and warn, once a part of the run, that it is done in a slower way than was meant, and the reason."""
        if part not in self._slower:
            self._slower.add(part)
            self._record_slower(part, reason)
            self.observer.warned(f"The {part} takes longer than it should, as {reason}. It changes no number.")

    def _record_slower(self, part: str, reason: str) -> None:
        if (record := self.run_dir.record()) is not None:
            *earlier, attempt = record.attempts
            attempt = attempt.model_copy(update={"slower": {**attempt.slower, part: reason}})
            changed = record.model_copy(update={"attempts": [*earlier, attempt]})
            self.patiently(lambda: self.run_dir.write_record(changed))

    def patiently(self, write: Callable[[], T]) -> T:
        """What ``write`` returns; a store that does not answer is tried again for ``options.patience_seconds``.

        Raises:
            StoreAway: where it did not answer for so long.
        """
        until, delay = time.monotonic() + self.options.patience_seconds, FIRST_DELAY
        while True:
            try:
                return write()
            except StoreAway as error:
                if time.monotonic() + delay > until:
                    raise
                self.observer.warned(f"{error} Training waits, and tries again in {delay:g} s.")
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    def checkpoint(self, step: int, writer: Callable[[Path], None]) -> None:
        """Write a checkpoint with the metrics up to here; of the older ones the first and the two newest stay.

        Raises:
            RunError: where the lease was lost to another process, or the disk is full.
        """
        self.patiently(self.metrics.flush)

        def write(folder: Path) -> None:
            writer(folder)
            (folder / METRICS).write_bytes(self.metrics.to_bytes())
            self._checkpoint_bytes = sum(file.stat().st_size for file in folder.iterdir())

        self.patiently(lambda: self.run_dir.save_checkpoint(step, write))
        self.patiently(lambda: self.run_dir.prune({0, *self.run_dir.checkpoints.steps()[-2:]}))
        self._last_checkpoint = time.monotonic()

    def checkpoint_due(self, *, evaluated: bool) -> bool:
        """Whether the last checkpoint is long enough ago for another.

        Args:
            evaluated: whether there is an evaluation to keep: then it is, unless writing one would take more of the
                time since then than ``CHECKPOINT_RATE`` allows.
        """
        asked = self._checkpoint_bytes / CHECKPOINT_RATE if evaluated else math.inf
        return time.monotonic() - self._last_checkpoint >= min(self.checkpoint_seconds, asked)

    def restore(self, load: Callable[[Path], T]) -> T | None:
        """What ``load`` makes of the newest checkpoint that is whole, with its metrics; None where there is none."""

        def read(folder: Path) -> tuple[T, MetricsTable]:
            table = MetricsTable(self.run_dir.metrics_path, (folder / METRICS).read_bytes())
            return load(folder), table

        found = self.run_dir.latest_checkpoint(read, warn=self.observer.warned)
        self.group.broadcast(None if found is None else found[0])
        self.board = BoardWriter(self.run_dir.path, None if found is None else found[1][1])
        self.board.settings(self.hparams)
        if found is None:
            return None
        _, (value, self.metrics) = found
        return value

    def close(self, status: Literal["done", "failed"] | None) -> None:
        """Close what is open; None: the run is to go on later, or another process has taken it over."""
        if self.board is None:
            return
        try:
            self.run_dir.check()
        except RunError:
            status = None
        self.board.close(status)
        if status == "failed" and len(self.metrics):
            # To look at; the next attempt takes those of its checkpoint. The failure is told, not this one's.
            with contextlib.suppress(RtScaleError):
                self.metrics.flush()


class Follower(Context):
    """The context of every rank but the first: it reads what rank 0 wrote, and writes nothing."""

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Rank 0 records the same numbers."""

    def _record_slower(self, part: str, reason: str) -> None:
        """Rank 0 keeps the record."""

    def checkpoint(self, step: int, writer: Callable[[Path], None]) -> None:
        """Rank 0 holds the same weights."""

    def checkpoint_due(self, *, evaluated: bool) -> bool:
        """Rank 0's matter."""
        return False

    def restore(self, load: Callable[[Path], T]) -> T | None:
        """What ``load`` makes of the checkpoint that rank 0 goes on from; RunError where it cannot be read here."""
        step = self.group.broadcast(None)
        return None if step is None else self.run_dir.checkpoints.read(step, load)

    def close(self, status: Literal["done", "failed"] | None) -> None:
        """Nothing is open."""

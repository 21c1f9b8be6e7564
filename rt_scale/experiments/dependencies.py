"""Runs that other runs start from: computed first or waited for, and the weights taken from them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from rt_scale.experiments.options import Observer, Options, Silent
from rt_scale.models.networks import Weights
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.networks import StartFrom
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import stop_check
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import STUDENT, read_weights
from rt_scale.training.loop import compute_gradients

StartWeights = Mapping[str, Weights]
"""Parameters and buffers by name of ``teacher`` and ``student``, if they start from another run."""

T = TypeVar("T")

TEACHER = "teacher.safetensors"
START = 0
"""The checkpoint of the teacher and the student at a run's start, also of a run that goes on from a later step."""


def start_weights(spec: TrainingSpec, store: Store) -> dict[str, dict[str, Tensor]]:
    """The weights that teacher and student of ``spec`` start from, float32 or float64 on the CPU.

    RunError if a run is not finished, or its checkpoint is missing or damaged.
    """
    roles = {"teacher": spec.teacher.start_from, "student": spec.student.start_from}
    return {role: _weights(start, store) for role, start in roles.items() if start is not None}


def _weights(start: StartFrom, store: Store) -> dict[str, Tensor]:
    run_dir = store.run(start.run)
    run_dir.refresh()
    finished = run_dir.result()
    if finished is None:
        raise RunError(f"The run {start.run.name}, to start from, is not finished; compute it first.")
    frozen = start.take == "teacher" and not start.run.teacher.moves
    # The last step by the result: the newest checkpoint present may be an earlier one.
    step = START if start.take == "init" or frozen else finished.steps
    file = TEACHER if start.take == "teacher" else STUDENT

    def load(folder: Path) -> dict[str, Tensor]:
        return read_weights(folder / file)

    try:
        weights = run_dir.checkpoints.read(step, load)
    except RunError as error:
        raise RunError(
            f"This run starts from the {start.take} of run {start.run.name}, but {error} Move the folder "
            f"'{run_dir.path}' away to have that run computed anew."
        ) from error
    return {name: value for name, value in weights.items() if start.part == "network" or name.startswith("encoder.")}


def read_end(run: TrainingSpec, store: Store, load: Callable[[Path], T]) -> T:
    """The result of ``load`` on the last checkpoint of a finished run.

    RunError if the run is not finished, or its checkpoint is missing or damaged.
    """
    run_dir = store.run(run)
    run_dir.refresh()
    finished = run_dir.result()
    if finished is None:
        raise RunError(f"The run {run.name}, to go on from, is not finished; compute it first.")
    try:
        return run_dir.checkpoints.read(finished.steps, load)
    except RunError as error:
        raise RunError(
            f"This run goes on from the end of run {run.name}, but {error} Move the folder '{run_dir.path}' away to "
            "have that run computed anew."
        ) from error


PATIENCE = 1.0
"""Seconds between two looks at a run that another process computes."""


class _DependencyObserver(Silent):
    """An observer of a run that another one starts from: shows its stages, not its numbers."""

    def __init__(self, observer: Observer, name: str) -> None:
        self.observer, self.name = observer, name

    def stage(self, text: str) -> None:
        """Show the stage with the name of the run."""
        self.observer.stage(f"first {self.name}: {text}")

    def started(self, step: int, steps: int) -> None:
        """Announce the run and its length."""
        self.steps = steps
        self.observer.decided(f"first {self.name}, which this run starts from ({steps:,} steps)")
        self.stage("training")

    def stepped(self, step: int) -> None:
        """Show every tenth of the run."""
        if step * 10 // self.steps != (step - 1) * 10 // self.steps:
            self.stage(f"training, {100 * step // self.steps} %")

    def warned(self, text: str) -> None:
        """Pass the warning on."""
        self.observer.warned(f"{self.name}: {text}")


def compute_first(spec: RunSpec, options: Options, run: Callable[[RunSpec, Options], RunResult]) -> RunResult:
    """The result of ``spec``, which another run with these options starts from; computed by ``run``, or waited for.

    Raises:
        InputError: it cannot be run here.
        RunError: it failed; the message names it.
        Stopped: the other run is asked to stop.
    """
    observer = _DependencyObserver(options.observer, spec.name)
    options_of_first = dataclasses.replace(options, observer=observer, gradients=compute_gradients)
    run_dir = options.store.run(spec)
    while True:
        run_dir.refresh()
        was_running = run_dir.status().state == "running"
        try:
            return run(spec, options_of_first)
        except InputError:
            run_dir.refresh()
            # Before or after: the other process may have released the lease between the refusal and this look.
            if not was_running and run_dir.status().state != "running":
                raise
            options.observer.stage(f"waiting for {spec.name}, which another process computes")
            stop_check(options.stop)()
            time.sleep(PATIENCE)
        except RunError as error:
            raise RunError(f"The run {spec.name}, to start from, has no result: {error}") from error

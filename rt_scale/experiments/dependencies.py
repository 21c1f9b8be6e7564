"""Runs that start from other runs: computed first or waited for, and the weights that are taken from them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from rt_scale.experiments.options import Observer, Options, Silent
from rt_scale.models.networks import Weights
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.networks import StartFrom
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import stop_check
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import STUDENT, read_weights
from rt_scale.training.loop import compute_gradients

StartWeights = Mapping[str, Weights]
"""``teacher`` and ``student``, where they start from another run, to parameters and buffers by name."""

TEACHER = "teacher.safetensors"
START = 0
"""The step of the checkpoint that holds teacher and student as they begin."""


def start_weights(spec: RunSpec, store: Store) -> dict[str, dict[str, Tensor]]:
    """The weights that teacher and student of ``spec`` start from, float32 or float64 on the CPU.

    Raises:
        RunError: a run that is not finished, or whose checkpoint is gone or damaged.
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
    # The end as the result says it: the newest checkpoint that is there may be one on the way.
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


PATIENCE = 1.0
"""Seconds between two looks at a run that somebody else computes."""


class _Before(Silent):
    """An observer of the run that comes first: what it does is shown, its numbers belong to another run."""

    def __init__(self, observer: Observer, name: str) -> None:
        self.observer, self.name = observer, name

    def stage(self, text: str) -> None:
        """Show the stage."""
        self.observer.stage(f"first {self.name}: {text}")

    def started(self, step: int, steps: int) -> None:
        """Remember how long it is, and say that it is under way."""
        self.steps = steps
        self.observer.decided(f"first {self.name}, which this run starts from ({steps:,} steps)")
        self.stage("training")

    def stepped(self, step: int) -> None:
        """Every tenth is told."""
        if step * 10 // self.steps != (step - 1) * 10 // self.steps:
            self.stage(f"training, {100 * step // self.steps} %")

    def warned(self, text: str) -> None:
        """Pass the warning on."""
        self.observer.warned(f"{self.name}: {text}")


def compute_first(spec: RunSpec, options: Options, run: Callable[[RunSpec, Options], RunResult]) -> RunResult:
    """The result of ``spec``, which another run, of these options, starts from, as ``run`` computes it.

    Raises:
        InputError: where it cannot be run here.
        RunError: where it failed, naming it.
        Stopped: where this run was asked to stop.
    """
    watched = dataclasses.replace(options, observer=_Before(options.observer, spec.name), gradients=compute_gradients)
    run_dir = options.store.run(spec)
    while True:
        run_dir.refresh()
        held = run_dir.status().state == "running"
        try:
            return run(spec, watched)
        except InputError:
            run_dir.refresh()
            # Held before or after: who held it may have let go of it between the refusal and this look.
            if not held and run_dir.status().state != "running":
                raise
            options.observer.stage(f"waiting for {spec.name}, which another process computes")
            stop_check(options.stop)()
            time.sleep(PATIENCE)
        except RunError as error:
            raise RunError(f"The run {spec.name}, to start from, has no result: {error}") from error

"""Runs that start from other runs: the weights that are taken from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rt_scale.models.pair import Weights
from rt_scale.spec.errors import RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.start import StartFrom
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import STUDENT, read_weights

StartWeights = Mapping[str, Weights]
"""``teacher`` and ``student``, where they start from another run, to parameters and buffers by name."""

TEACHER = "teacher.safetensors"
START = 0
"""The step of the checkpoint that holds teacher and student as they begin."""


def start_weights(spec: RunSpec, store: Store) -> dict[str, dict[str, Tensor]]:
    """The weights that teacher and student of ``spec`` start from, float32 or float64 on the CPU.

    Args:
        spec: the run; those that it starts from are finished.
        store: where they are.

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
    step = START if start.take == "init" or frozen else int(finished["steps"])
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

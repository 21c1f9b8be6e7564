"""Runs that other runs contain: computed first or waited for, and the weights taken from them or drawn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from rt_scale.experiments.base import Sets
from rt_scale.experiments.options import Observer, Options, Silent
from rt_scale.models.networks import Network, Weights, build_pair
from rt_scale.spec.errors import InputError, RunError, counted
from rt_scale.spec.experiments.pruning import Pruned
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.networks import StartFrom, Taken
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import stop_check
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import STUDENT, read_weights
from rt_scale.training.loop import compute_gradients
from rt_scale.training.precision import parameter_dtype
from rt_scale.training.pruning import Kept, all_kept, emptied, prunable, pruned, read_mask, shares

StartWeights = Mapping[str, Weights]
"""Parameters and buffers by name of ``teacher`` and ``student``, if they start from another run."""

T = TypeVar("T")

TEACHER = "teacher.safetensors"
MASK = "mask.safetensors"
START = 0
"""The checkpoint of the teacher and the student at a run's start, also of a run that goes on from a later step."""


def start_weights(spec: TrainingSpec, store: Store, data: Sets | None) -> dict[str, dict[str, Tensor]]:
    """The weights that teacher and student of ``spec`` start from; arguments and errors as of :func:`weights_of`."""
    starts = {"teacher": spec.teacher.start_from, "student": spec.student.start_from}
    weights = {role: _of_part(start, store, data) for role, start in starts.items() if start is not None}
    if (before := spec.goes_on_from) is not None:
        weights["student"] = read_end(before, "state", store, lambda folder: read_weights(folder / STUDENT))
    return weights


def _of_part(start: StartFrom, store: Store, data: Sets | None) -> dict[str, Tensor]:
    weights = weights_of(start, store, data)
    return {name: value for name, value in weights.items() if start.part == "network" or name.startswith("encoder.")}


def weights_of(network: Taken, store: Store, data: Sets | None) -> dict[str, Tensor]:
    """Parameters and buffers of another run's network by name, on the CPU, in the dtype of that run's parameters.

    What is as at that run's start (``network.drawn``) is read from the run's checkpoint of step 0, or drawn where the
    store has none: equal bit for bit. All else is read from the last checkpoint of the finished run.

    Args:
        data: the open data sets of the run that contains ``network``; those of ``network.run`` are in ``starts``.

    RunError if a run in ``network.needed`` is not finished, or a checkpoint is missing or damaged.
    """
    file = TEACHER if network.take == "teacher" else STUDENT
    if not network.drawn:
        at_start = network.take == "init"
        return read_end(network.run, network.take, store, lambda folder: read_weights(folder / file), at_start=at_start)
    run_dir = store.run(network.run)
    run_dir.refresh()
    if START not in run_dir.checkpoints.steps():
        return _draw(network, store, data)

    def load(folder: Path) -> dict[str, Tensor] | None:
        """None: a bundle left the file out."""
        return read_weights(folder / file) if (folder / file).exists() else None

    weights = _read(run_dir, START, network.take, load)
    return _draw(network, store, data) if weights is None else weights


def read_end(run: TrainingSpec, what: str, store: Store, load: Callable[[Path], T], *, at_start: bool = False) -> T:
    """The result of ``load``, which takes ``what`` in a word, on the last checkpoint of a finished run, or the first.

    RunError if the run is not finished, or its checkpoint is missing or damaged.
    """
    run_dir = store.run(run)
    run_dir.refresh()
    finished = run_dir.result()
    if finished is None:
        raise RunError(f"The run {run_dir.name}, whose {what} is taken, is not finished; compute it first.")
    # The last step by the result: the newest checkpoint present may be an earlier one.
    return _read(run_dir, START if at_start else finished.steps, what, load)


def _read(run_dir: RunDir, step: int, what: str, load: Callable[[Path], T]) -> T:
    try:
        return run_dir.checkpoints.read(step, load)
    except RunError as error:
        raise RunError(
            f"This run takes the {what} of run {run_dir.name}, but {error} Move the folder '{run_dir.path}' away to "
            "have that run computed anew."
        ) from error


def round_mask(round_: Pruned, student: Network, store: Store) -> Kept:
    """What is left of the weights of ``student`` in a round of pruning, from the end of the round before.

    RunError if that cannot be read, or a layer would have no weights left.
    """

    def load(folder: Path) -> Kept:
        weights = read_weights(folder / STUDENT)
        first = round_.before.pruned is None
        names = prunable(student, round_.how.parameters)
        kept = all_kept(weights, names) if first else read_mask(folder / MASK, dict(student.named_parameters()))
        return pruned(weights, kept, round_.how.fraction, round_.how.scope)

    kept = read_end(round_.before, "mask", store, load)
    if gone := emptied(kept):
        left = shares(kept)["sparsity/left"]
        raise RunError(
            f"Pruning ends before round {round_.how.round}, at {left:.2%} of the weights, as it would leave none in "
            f"{counted(len(gone), 'layer')}: {', '.join(gone[:3])}{' ...' if len(gone) > 3 else ''}. Take fewer "
            "rounds, a smaller prune.fraction, a wider encoder, or prune.scope: layer."
        )
    return kept


def _draw(network: Taken, store: Store, data: Sets | None) -> dict[str, Tensor]:
    """The network as its run's start draws it."""
    run = network.run
    if data is None:
        raise InputError(
            f"The {network.take} of run {run.name} is drawn for the images of '{run.data.name}', but the kind of run "
            "that takes it opens no data set: let its spec name one in data_sets."
        )
    sets = data.starts[run.name]
    weights = {role: _of_part(start, store, sets) for role, start in network.origins.items()}
    pair = build_pair(run, sets.main.info.channels, run.data.size or sets.main.info.size, weights)
    made = pair.teacher if network.take == "teacher" else pair.student
    return made.to(parameter_dtype(run.precision)).state_dict()


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
        self.observer.decided(f"first {self.name}, which this run needs ({steps:,} steps)")
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
            raise RunError(f"The run {spec.name}, which this run needs, has no result: {error}") from error

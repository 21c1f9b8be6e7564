"""One spec run by several processes: rank 0 holds the run directory, the others follow it.

Rank 0 does what a single process does: it decides, takes the lease and writes. The others wait for its orders, one
for every attempt that it makes, at the run itself and at those that it starts from, and train along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rt_scale.data.known import NoiseSet
from rt_scale.experiments.check import Sets, check, training_samples
from rt_scale.experiments.context import Follower
from rt_scale.experiments.dependencies import StartWeights, start_weights
from rt_scale.experiments.options import Options, ResolvedOptions, find_device
from rt_scale.experiments.train import train_run
from rt_scale.spec.errors import InputError, RtScaleError, RunError, StoreAway, first_line
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped, heeding
from rt_scale.training.distributed import WorkerLost
from rt_scale.training.loop import Diverged
from rt_scale.training.precision import set_precision

ALIKE = (InputError, Diverged, Stopped)
"""What every rank finds by itself, at the same point: the group stays whole."""


def check_shares(spec: RunSpec, data: Sets, workers: int) -> None:
    """Refuse more workers than there are images to share in a batch or in a split (InputError)."""
    counts = {"train.batch_size": spec.train.batch_size, "data.samples": training_samples(spec, data.main)}
    if not isinstance(data.main, NoiseSet):
        counts[f"the number of test images of '{spec.data.name}'"] = len(data.main.test.labels)
    for name, other in data.also.items():
        counts[f"the number of images of '{name}'"] = min(len(other.train.labels), len(other.test.labels))
    for name, count in counts.items():
        if count < workers:
            raise InputError(
                f"{workers} workers were asked for, but {name} is {count}, and every worker needs an image of it. "
                f"Give at most {count} workers."
            )


def lead(spec: RunSpec, execution: ResolvedOptions, options: Options) -> None:
    """Rank 0 is about to train ``spec`` as ``execution`` says, and the others are to follow."""
    _order(options, {"spec": spec.model_dump(mode="json"), "execution": execution.to_json()})


def dismiss(options: Options) -> None:
    """Rank 0 is through: the others may go."""
    _order(options)


def _order(options: Options, given: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
    return options.group.broadcast(given)


def follow(options: Options) -> None:
    """Train along with rank 0 until it is through; what every rank but the first does.

    Args:
        options: its store and data are those of rank 0; its device is this rank's own.

    Raises:
        RunError: where another worker is gone (WorkerLost), or something fails here alone, with the reason.
    """
    while (order := _order(options)) is not None:
        # What is missing here alone ends this process, and with it the group.
        try:
            attempt = _prepared(order, options)
        except Stopped as error:
            raise RunError("This worker was asked to stop while it fetched its data.") from error
        try:
            train_run(*attempt)
        except ALIKE:  # rank 0 tells of it
            continue
        except (WorkerLost, StoreAway):
            raise
        except Exception as error:
            raise RunError(f"Worker {options.group.rank}: {in_words(attempt[0], error, 'its log')}") from error


def _prepared(order: Mapping[str, Any], options: Options) -> tuple[RunSpec, Sets, Follower, StartWeights]:
    spec = RunSpec.model_validate(order["spec"])
    execution = ResolvedOptions(**{**order["execution"], "device": find_device(options.device)})
    torch.set_num_threads(execution.threads)
    set_precision(spec.precision)
    context = Follower.begin(options.store.run(spec), execution, options, hparams={})
    options.resident.next_run()
    return spec, check(spec, options.data_dir, heeding(options.stop)), context, start_weights(spec, options.store)


def in_words(spec: RunSpec, error: Exception, traceback: str = "its failure.json") -> RtScaleError:
    """The error in words for the user; one that already has them is kept. ``traceback`` is where that can be read."""
    if isinstance(error, RtScaleError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return RunError(
            f"Run {spec.name} ran out of memory ({first_line(error)}). "
            "Lower train.batch_size, projector.out_dim, data.samples or launch.pack, or use a device with more memory."
        )
    return RunError(
        f"Run {spec.name} failed: {type(error).__name__}: {error}. The traceback is in {traceback}; "
        "run it again to go on from its last checkpoint."
    )

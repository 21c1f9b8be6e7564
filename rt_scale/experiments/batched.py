"""Several runs trained as one batched network in this process, each in its own directory as if it were alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rt_scale.experiments.batch_choice import Packing
from rt_scale.experiments.batch_size import measured_packing
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import running
from rt_scale.spec.errors import InputError
from rt_scale.spec.packing import packable, same_images
from rt_scale.spec.run import RunSpec
from rt_scale.training.batched.batched import serve_together
from rt_scale.training.loop import Steps

Result = dict[str, Any]
Ended = Callable[[int, Result | BaseException], None]
"""Told the position of a run, and its result or what ended it, as soon as it is over."""


def _nobody(number: int, outcome: Result | BaseException) -> None:
    """Nobody waits for single runs."""


def run_pack(
    specs: Sequence[RunSpec], settings: Sequence[Options], ended: Ended = _nobody
) -> list[Result | BaseException]:
    """The results of ``specs``, as :func:`rt_scale.experiments.runner.run` gives each, trained together.

    Every run has its own directory, lease, observer, probes, checkpoints and end; one that diverges, is asked to
    stop, or is through leaves the others to go on. What each computes is what it computes alone, to rounding. How
    many train together is recorded in each ``environment.json``.

    Args:
        specs: runs that ``spec.packing.packable`` has nothing against; one is run alone.
        settings: of each; all of one device and number of threads, and of one process.
        ended: called in this thread as runs end.

    Returns:
        Of each run its result, or the Exception or Stopped that ended it.

    Raises:
        InputError: where they cannot be packed.
    """
    if reason := packable(specs) if len(specs) > 1 else "":
        raise InputError(f"These {len(specs)} runs cannot train as one batched network: {reason}.")
    if any(each.group.world > 1 for each in settings):
        raise InputError("Runs of several workers cannot train as one batched network; give them 1 worker.")
    alike = [dataclasses.replace(each, packing=dataclasses.replace(each.packing, size=len(specs))) for each in settings]
    runs = [_told(number, running(*run), ended) for number, run in enumerate(zip(specs, alike, strict=True))]
    return serve_together(runs, same_images=same_images(specs))


def _told(number: int, run: Steps[Result], ended: Ended) -> Steps[Result]:
    try:
        result = yield from run
    except BaseException as error:
        ended(number, error)
        raise
    ended(number, result)
    return result


def choose_packing(specs: Sequence[RunSpec], settings: Options, most: int | None) -> Packing:
    """How many of ``specs`` to train together.

    Args:
        specs: runs of one shape.
        settings: where they are executed.
        most: so many, as far as there are runs; None: as measured (:func:`measured_packing`).
    """
    if reason := packable(specs):
        return Packing(1, f"cannot be packed: {reason}")
    if most is not None:
        return Packing(min(most, len(specs)), f"launch.pack is {most}")
    return measured_packing(specs[0], settings, len(specs))

"""Every run that there is to compute: its process, its estimate, its reader of images, its place in the queue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rt_scale.data.loaders.choose import Choice, choose_loader
from rt_scale.data.loaders.ffcv import require_ffcv
from rt_scale.data.prepared import KnownData
from rt_scale.experiments.options import free_memory
from rt_scale.plan.batches import by_process
from rt_scale.plan.conditions import Conditions, occupied
from rt_scale.plan.estimate import Estimate, Estimator
from rt_scale.plan.history import measured_runs, shape
from rt_scale.plan.queue import Node
from rt_scale.plan.simulation import SimulatedJob
from rt_scale.spec.batching import alone_because
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store

UNKNOWN = "unknown"


class Planned(NamedTuple):
    """A run that there is to compute.

    Attributes:
        node: the run.
        estimate: how long it takes.
        loader: what will read its training images, if it is started here.
        undecided: whether how many train together with it will be measured, and nobody knows yet.
    """

    node: Node
    estimate: Estimate
    loader: Choice
    undecided: bool


Process = list[Planned]
"""Runs that one process computes: one, or those that it trains together."""


def plan_runs(
    todo: Sequence[Node], known: KnownData, store: Store, conditions: Conditions, data_dir: Path
) -> list[Process]:
    """Share the runs out among processes, and estimate every one.

    Args:
        todo: the runs, none before what it starts from.
        known: their data sets.
        store: whose finished runs are asked first.
        conditions: machines, and what is assumed of them.
        data_dir: where prepared data sets are.
    """
    teraflops, most = conditions.teraflops, conditions.concurrency or len(todo)
    measured = {} if teraflops else measured_runs(store, {shape(node.spec) for node in todo})
    estimator = Estimator(measured, known, teraflops, data_dir)
    free = functools.cache(free_memory)  # asked once: it changes all the time, and with it the reason that is told

    def size(node: Node) -> int:
        asked = node.launch.pack
        return min(most, (estimator.best_pack(node) or 1) if asked == "auto" else asked)

    def planned(node: Node, together: int) -> Planned:
        auto = node.launch.pack == "auto" and not alone_because(node.spec)
        undecided = auto and estimator.best_pack(node) is None
        return Planned(node, estimator.estimate(node, together), _loader(node, known, free), undecided)

    processes = by_process(todo, size, conditions.slots)
    return [[planned(node, len(nodes)) for node in nodes] for nodes in processes]


def tasks_of(processes: Sequence[Process]) -> list[SimulatedJob]:
    """What the simulation sees of them; nothing of runs without an estimate."""
    known = [[run for run in runs if run.estimate.seconds is not None] for runs in processes]
    of = {run.node.spec.name: runs[0].node.spec.name for runs in known for run in runs}
    return [_task(runs, of) for runs in known if runs]


def _task(runs: Process, of: Mapping[str, str]) -> SimulatedJob:
    """``of``: name of a run -> the task that it is part of."""
    kind, units = occupied(runs[0].node.launch)
    needed = [start.run.name for run in runs for start in run.node.spec.starts]
    return SimulatedJob(
        name=of[runs[0].node.spec.name],
        seconds=sum(run.estimate.left for run in runs),
        kind=kind,
        units=units,
        after=tuple(dict.fromkeys(of[name] for name in needed if name in of)),
        checkpoint=max(run.estimate.checkpoint for run in runs),
        runs=len(runs),
    )


def _loader(node: Node, known: KnownData, free: Callable[[torch.device], int]) -> Choice:
    """What ``experiments.options.resolve`` would choose here and now."""
    spec, info = node.spec, known.main(node.spec)
    if info is None:
        return Choice(UNKNOWN, f"nothing is known of the data set {spec.data.name} yet")
    if node.launch.gpus and not torch.cuda.is_available():
        return Choice(UNKNOWN, "there is no GPU here; it is chosen where the run starts")
    # The prepared images are what is kept, whatever they are resized to.
    size = 0 if spec.data.name == GAUSSIAN else (spec.data.samples or info.train) * info.channels * info.size**2
    device = torch.device("cuda" if node.launch.gpus else "cpu")
    choice = choose_loader(node.launch.loader, size, device, free)
    if choice.name == "ffcv":
        try:
            require_ffcv()
        except InputError as error:
            return Choice("ffcv", f"{choice.reason}, which will be refused here: {error}")
    return choice

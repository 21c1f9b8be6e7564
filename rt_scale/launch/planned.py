"""Every run that there is to compute: its estimate, its reader of images, and its place in the queue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from rt_scale.data.ffcv import require_ffcv
from rt_scale.experiments.loaders import Choice, choose_loader
from rt_scale.experiments.settings import free_memory
from rt_scale.launch.estimate import Estimate, Estimator
from rt_scale.launch.known_data import KnownData
from rt_scale.launch.measured import measured_runs, shape
from rt_scale.launch.plan_queue import Node
from rt_scale.launch.queue_simulation import Task
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
        task: as the simulation sees it; None without an estimate.
    """

    node: Node
    estimate: Estimate
    loader: Choice
    task: Task | None


def plan_runs(todo: Sequence[Node], known: KnownData, store: Store, teraflops: float | None) -> list[Planned]:
    """Estimate every run.

    Args:
        todo: the runs, none before what it starts from.
        known: their data sets.
        store: whose finished runs are asked first.
        teraflops: as ``Conditions.teraflops``.
    """
    measured = {} if teraflops else measured_runs(store, {shape(node.spec) for node in todo})
    estimator = Estimator(measured, known, teraflops)
    free = functools.cache(free_memory)  # asked once: it changes all the time, and with it the reason that is told
    planned = []
    for node in todo:
        estimate = estimator.estimate(node)
        task = None if estimate.seconds is None else _task(node, estimate)
        planned.append(Planned(node, estimate, _loader(node, known, free), task))
    return planned


def _task(node: Node, estimate: Estimate) -> Task:
    launch = node.launch
    return Task(
        name=node.spec.name,
        seconds=estimate.left,
        kind="gpu" if launch.gpus else "cpu",
        units=(launch.gpus or launch.cpus) * launch.workers,
        after=tuple(start.run.name for start in node.spec.starts),
        checkpoint=estimate.checkpoint,
    )


def _loader(node: Node, known: KnownData, free: Callable[[torch.device], int]) -> Choice:
    """What ``experiments.settings.resolve`` would choose here and now."""
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

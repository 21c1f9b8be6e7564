"""Sweep files as one queue of distinct runs, and how each of them stands in the store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rt_scale.experiments.check import unfinished
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.schedule import duration_steps
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.run_dir import State
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns


@dataclass(frozen=True)
class Node:
    """A run of the queue.

    Attributes:
        spec: the run.
        launch: what it occupies: of the first sweep that needs it.
        asked: whether a sweep names it itself; else others start from it.
        state: how it stands.
        wanted: whether there is something to compute: what a finished run started from is not needed any more.
        step: of its newest checkpoint; 0 where there is none.
    """

    spec: RunSpec
    launch: LaunchSpec
    asked: bool
    state: State
    wanted: bool
    step: int


def build_queue(sweeps: Sequence[SweepRuns], over: Collection[str] = ()) -> list[Node]:
    """Every run of the sweeps and every run that one of them starts from, each once, none before what it needs.

    Args:
        sweeps: of one store.
        over: names of runs that are not gone on with, whatever their state.
    """
    store = sweeps[0].store
    launches: dict[str, LaunchSpec] = {}
    asked: dict[str, RunSpec] = {}
    for sweep in sweeps:
        points = sweep.points
        asked |= {point.spec.name: point.spec for point in points if point.spec.name not in asked}
        for spec in all_runs(point.spec for point in points):
            launches.setdefault(spec.name, sweep.spec.launch)
    open_ = [spec for spec in asked.values() if spec.name not in over]
    wanted = {each.name for spec in open_ for each in unfinished(spec, store)}
    return [
        Node(spec, launches[spec.name], spec.name in asked, *_standing(spec, store, wanted))
        for spec in all_runs(asked.values())
    ]


def _standing(spec: RunSpec, store: Store, wanted: set[str]) -> tuple[State, bool, int]:
    run_dir = store.run(spec)
    state = run_dir.status().state
    steps = run_dir.checkpoints.steps() if state not in ("done", "missing") else []
    return state, spec.name in wanted, max(steps, default=0)


def training_steps(spec: RunSpec, images: int) -> tuple[int, int]:
    """Optimiser steps of the run, and of an epoch of it.

    Args:
        spec: the run.
        images: training images of its data set.
    """
    an_epoch = -(-(spec.data.samples or images) // spec.train.batch_size)
    return spec.train.epochs * an_epoch, an_epoch


def evaluations(spec: RunSpec, images: int) -> int:
    """How often the student is probed: at its start, every ``probe.every`` and at its end; ``images`` as above."""
    steps, an_epoch = training_steps(spec, images)
    every = duration_steps(spec.probe.every, an_epoch) if spec.probe.every else steps
    return 1 + steps // every + (steps % every > 0)

"""A run to be executed: where, how, how that came out, and who is told."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names


@dataclass(frozen=True)
class Job:
    """A run to be executed.

    Attributes:
        label: how it is shown; unique in a queue.
        spec: what to run.
        launch: what it is executed on.
        sweep: the one that wants it, if any; its rule may end the run early.
    """

    label: str
    spec: RunSpec
    launch: LaunchSpec
    sweep: SweepSpec | None = None

    @functools.cached_property
    def name(self) -> str:
        """Name of the run, made once: queues ask for it all the time."""
        return self.spec.name

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """Names of the runs that it starts from itself."""
        return frozenset(start.run.name for start in self.spec.starts)


class JobState(StrEnum):
    """How a job came out; the first three are final."""

    DONE = "done"
    """Its run has a result."""
    FAILED = "failed"
    """Its run cannot be completed, for a reason of its own."""
    EARLY_STOPPED = "early_stopped"
    """A rule of its sweep ended it."""
    RETURNED = "returned"
    """It goes back into the queue as it is: its node is about to go, or it was handed out with others in vain."""
    DIED = "died"
    """Its process ended without a word."""
    LEASED_ELSEWHERE = "leased_elsewhere"
    """Another driver executes its run."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The store could not be reached."""


FINAL = (JobState.DONE, JobState.FAILED, JobState.EARLY_STOPPED)
"""States after which a job is not tried again."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job came out.

    Attributes:
        state: what became of it.
        why: a sentence; empty where the state says all.
        values: the run's newest metrics.
    """

    state: JobState
    why: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """Where and how sweeps are run; nothing here changes a run's numbers.

    Attributes:
        store: where runs are kept.
        data_dir: where prepared data sets are.
        device: as ``Options.device``.
        address: the Ray cluster, as for ``cluster.connect``.
        concurrency: runs at a time, at most.
        retry_failed: whether runs are tried again that failed for a reason of their own.
        replace: whether a sweep may take the name of one that has no run in common with it.
    """

    store: Store
    data_dir: Path
    device: str = "auto"
    address: str | None = None
    concurrency: int | None = None
    retry_failed: bool = False
    replace: bool = False

    @property
    def alone(self) -> bool:
        """Whether a Ray of our own on this machine executes the runs, so that it must have what they need."""
        return asked_address(self.address)[0] == "local"


def asked_address(given: str | None) -> tuple[str, bool]:
    """Which Ray is asked for: ``host:port``, ``auto`` or ``local``; and whether RAY_ADDRESS says so.

    Args:
        given: what was typed; None: nothing.
    """
    set_ = os.environ.get("RAY_ADDRESS", "").strip()
    by_variable = given in {None, "auto"} and bool(set_)
    return (set_ if by_variable else given or "local"), by_variable


def jobs_of(sweeps: Sequence[SweepRuns]) -> dict[str, Job]:
    """The distinct runs of all sweeps by name; one that several want is executed as the first of them says."""
    refuse_equal_names(sweeps, "run together")
    jobs: dict[str, Job] = {}
    for sweep in sweeps:
        prefix = f"{sweep.name}: " if len(sweeps) > 1 else ""
        for point in sweep.points:
            job = Job(f"{prefix}{point.label}", point.spec, sweep.spec.launch, sweep.spec)
            jobs.setdefault(point.spec.name, job)
    return jobs


@dataclass(frozen=True)
class RunReport:
    """How a run stands, as its process says once a second.

    Attributes:
        step: optimiser steps done.
        steps: all of them; 0 while that is not known.
        began: the step that this attempt started at; None before training.
        stage: what is being done.
        where: what it is executed on, in words.
        epoch: at the newest measurements.
        values: newest measurements by name.
        warnings: new ones.
    """

    step: int = 0
    steps: int = 0
    began: int | None = None
    stage: str = "starting"
    where: str = ""
    epoch: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class View:
    """Whoever shows a sweep while it runs; this one shows nothing. Told by the driver's main thread alone."""

    def running(self, label: str, report: RunReport) -> None:
        """A run, ``label`` (the axes' values), reported."""

    def waiting(self, label: str, why: str, seconds: float | None, *, held: bool = False) -> None:
        """A run is back in the queue, for ``seconds`` where that is known; ``held``: another driver executes it."""

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None) -> None:
        """A run is complete, with its last measurements ``values``, or failed for the reason ``error``."""

    def stopped(self, label: str, why: str) -> None:
        """A scheduler ended a run early."""

    def added(self, count: int) -> None:
        """``count`` more runs are to be done; fewer where it is negative."""

    def tick(self) -> None:
        """Nothing happened; called a few times a second."""

    def said(self, text: str) -> None:
        """Something to keep was said."""

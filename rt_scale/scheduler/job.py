"""A run to be executed, where and how, and how it came out."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names

if TYPE_CHECKING:
    from rt_scale.scheduler.deadline import Deadline
    from rt_scale.store.usage import Planned


@dataclass(frozen=True)
class Job:
    """A run to be executed.

    Attributes:
        label: its displayed name, unique in a queue.
        launch: the resources to run it on.
        sweep: the sweep that it belongs to, if any, whose rule may stop it early.
    """

    label: str
    spec: RunSpec
    launch: LaunchSpec
    sweep: SweepSpec | None = None

    @functools.cached_property
    def name(self) -> str:
        """Name of the run, cached: queues read it often."""
        return self.spec.name

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """Names of the runs that it starts from directly."""
        return frozenset(needed.name for needed in self.spec.dependencies)


class JobState(StrEnum):
    """How a job came out; the first three are final."""

    DONE = "done"
    """Its run has a result."""
    FAILED = "failed"
    """Its run raised an error."""
    EARLY_STOPPED = "early_stopped"
    """A rule of its sweep stopped it."""
    RETURNED = "returned"
    """It returns to the queue unchanged: its node shuts down, or its batch was too large."""
    DIED = "died"
    """Its process ended without a report."""
    PREEMPTED = "preempted"
    """Its node was preempted or lost; this costs no try."""
    DEVICE_LOST = "device_lost"
    """A GPU of its node failed, which is put aside; this costs no try."""
    LEASED_ELSEWHERE = "leased_elsewhere"
    """Another driver executes its run."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The store could not be reached."""


FINAL = (JobState.DONE, JobState.FAILED, JobState.EARLY_STOPPED)
"""States after which a job is not tried again."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job came out, why (a sentence or empty), and the run's newest metrics."""

    state: JobState
    why: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """Where and how sweeps are run; nothing here changes a run's numbers.

    Attributes:
        data_dir: where prepared data sets are.
        device: as ``Options.device``.
        address: the Ray cluster, as for ``cluster.connect``.
        concurrency: most runs at a time.
        retry_failed: whether to retry runs whose state is ``failed``.
        replace: whether a sweep may replace one of the same name that has no run in common with it.
        leave_others: whether to end, without waiting, once other drivers execute all that is left.
        max_nodes: runs ask an autoscaler for no more than so many nodes hold.
        wait_nodes: how many nodes have to be there before anything starts.
        deadline: when the sweeps end.
        planned: the plan made before, which is recorded with what is used.
    """

    store: Store
    data_dir: Path
    device: str = "auto"
    address: str | None = None
    concurrency: int | None = None
    retry_failed: bool = False
    replace: bool = False
    leave_others: bool = False
    max_nodes: int | None = None
    wait_nodes: int | None = None
    deadline: Deadline | None = None
    planned: Planned | None = None

    @property
    def alone(self) -> bool:
        """Whether the runs are executed on this machine, by a Ray of our own, so that it must have their data."""
        return asked_address(self.address)[0] == "local"


def asked_address(given: str | None) -> tuple[str, bool]:
    """The Ray to use, ``host:port``, ``auto`` or ``local``, and whether RAY_ADDRESS decides it.

    ``given``: the command line's ``--address``.
    """
    set_ = os.environ.get("RAY_ADDRESS", "").strip()
    by_variable = given in {None, "auto"} and bool(set_)
    return (set_ if by_variable else given or "local"), by_variable


def jobs_of(sweeps: Sequence[SweepRuns]) -> dict[str, Job]:
    """The distinct runs of all sweeps by name; one of several sweeps gets the launch section of the first."""
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
    """The progress of a run, which its process reports once a second.

    Attributes:
        step: optimiser steps done.
        steps: of the whole run; 0 while unknown.
        began: the step that this attempt started at; None before training.
        stage: what the process is doing.
        where: host and device, in words.
        epoch: of the newest measurements.
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
    """Displays a sweep while it runs; this base class displays nothing. Only the driver's main thread calls it."""

    def running(self, label: str, report: RunReport) -> None:
        """The run ``label`` reported its progress."""

    def waiting(self, label: str, why: str, seconds: float | None, *, leased_elsewhere: bool = False) -> None:
        """A run is back in the queue, for ``seconds`` if known; ``leased_elsewhere``: ``why`` names who executes it."""

    def preempted(self, label: str, why: str, seconds: float | None) -> None:
        """A run is back in the queue, for ``seconds`` if known, as its node was preempted or lost."""

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None, by: str = "") -> None:
        """A run is done, with its last measurements ``values``, or failed because of ``error``.

        ``by`` names the driver that executed it, if it was another one.
        """

    def stopped(self, label: str, why: str) -> None:
        """A rule stopped a run early."""

    def added(self, count: int) -> None:
        """There are ``count`` more runs to do, or fewer if negative."""

    def tick(self) -> None:
        """Called a few times a second."""

    def said(self, text: str) -> None:
        """Show a message permanently."""

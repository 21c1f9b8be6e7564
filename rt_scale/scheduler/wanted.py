"""What is to be run, and where: sweeps as asked for, and the distinct runs that they want."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store


@dataclass(frozen=True)
class Sweep:
    """A sweep file as it is to be run.

    Attributes:
        spec: what the file says.
        points: its runs.
        text: the file, kept in the store as run.
    """

    spec: SweepSpec
    points: Sequence[Point]
    text: str


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


def wanted(sweeps: Sequence[Sweep]) -> dict[str, Job]:
    """The distinct runs of all sweeps by name; one that several want is executed as the first of them says."""
    if len({sweep.spec.name for sweep in sweeps}) < len(sweeps):
        names = ", ".join(sweep.spec.name for sweep in sweeps)
        raise InputError(f"Sweeps that are run together need names of their own; given: {names}.")
    tasks: dict[str, Job] = {}
    for sweep in sweeps:
        prefix = f"{sweep.spec.name}: " if len(sweeps) > 1 else ""
        for point in sweep.points:
            task = Job(f"{prefix}{point.label}", point.spec, sweep.spec.launch, sweep.spec)
            tasks.setdefault(point.spec.name, task)
    return tasks

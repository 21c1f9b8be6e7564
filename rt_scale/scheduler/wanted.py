"""What is to be run, and where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rt_scale.scheduler.job import Job
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names


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

"""How many runs of a queue one process trains as one batched network."""

from __future__ import annotations

import math

from rt_scale.scheduler.job import Job
from rt_scale.spec.batching import batch_key
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize

MOST = 16
"""Largest measured batch size, in runs."""
DEATHS = 2
"""After so many deaths of its process in a row, a run is executed alone."""


class Batching:
    """How many ready runs go into one process: a given number, or what a process measured."""

    def __init__(self) -> None:
        self._measured: dict[tuple[LaunchSpec, str], BatchSize] = {}

    @staticmethod
    def shape(job: Job, deaths: int) -> str:
        """Equal for jobs of a launch section that may share a process; empty for one that is executed alone.

        ``deaths``: how often in a row its process died; a run that kills its process must not take others along.
        """
        alone = job.launch.pack == 1 or deaths >= DEATHS or job.spec.alone_because
        return "" if alone else batch_key(job.spec)

    def learn(self, job: Job, measured: BatchSize) -> None:
        """Record how many runs of the shape of ``job`` to train together."""
        self._measured[job.launch, batch_key(job.spec)] = measured

    def known(self, job: Job) -> BatchSize | None:
        """What was measured for runs of the shape of ``job``, if anything."""
        return self._measured.get((job.launch, batch_key(job.spec)))

    def size(self, first: Job, alike: int, free: int) -> int:
        """How many jobs go into one process with ``first``, it included; free processes get equal numbers.

        ``alike``: how many other jobs of its shape are ready; ``free``: how many processes have room.
        """
        most = first.launch.pack
        if most == "auto":
            measured = self.known(first)
            most = MOST if measured is None else measured.size
        return min(most, math.ceil((1 + alike) / max(1, free)))

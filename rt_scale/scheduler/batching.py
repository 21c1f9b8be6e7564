"""How many runs of a queue one process trains as one batched network. It knows no Ray."""

from __future__ import annotations

import math

from rt_scale.scheduler.job import Job
from rt_scale.spec.batching import alone_because, batch_key
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize

MOST = 16
"""Runs together, at most, where their number is measured."""
DEATHS = 2
"""A run whose process died so often in a row is executed by one of its own."""


class Batching:
    """How many ready runs are handed out together: what was asked for, or what a process measured."""

    def __init__(self) -> None:
        self._measured: dict[tuple[LaunchSpec, str], BatchSize] = {}

    @staticmethod
    def shape(job: Job, deaths: int) -> str:
        """Equal for jobs of a launch section that may share a process; empty for one that is executed alone.

        Args:
            job: any.
            deaths: how often in a row its process died: it must not take others along for ever.
        """
        alone = job.launch.pack == 1 or deaths >= DEATHS or alone_because(job.spec)
        return "" if alone else batch_key(job.spec)

    def learn(self, job: Job, measured: BatchSize) -> None:
        """A process measured how many runs of the shape of ``job`` to train together."""
        self._measured[job.launch, batch_key(job.spec)] = measured

    def known(self, job: Job) -> BatchSize | None:
        """What was measured for runs of the shape of ``job``; None where nothing was yet."""
        return self._measured.get((job.launch, batch_key(job.spec)))

    def size(self, first: Job, alike: int, free: int) -> int:
        """How many jobs go into one process with ``first``, it included.

        Jobs are shared out evenly: no process gets many while another has none.

        Args:
            first: a job that is about to be executed.
            alike: how many of its shape are ready beside it.
            free: processes of its launch section that there is room for.
        """
        most = first.launch.pack
        if most == "auto":
            measured = self.known(first)
            most = MOST if measured is None else measured.size
        return min(most, math.ceil((1 + alike) / max(1, free)))

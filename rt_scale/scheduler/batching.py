"""Which runs of a queue go into one process, to be trained as one batched network. It knows no Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rt_scale.scheduler.job import Job
from rt_scale.spec.batching import alone_because, batch_key
from rt_scale.spec.sweep import LaunchSpec

MOST = 16
"""Runs together, at most, where their number is measured."""
DEATHS = 2
"""A run whose process died so often in a row is executed by one of its own."""


class Packs:
    """How many ready runs are handed out together: what was asked for, or what a process measured.

    Args:
        slots: how many processes of a launch section the cluster holds.

    Attributes:
        measured: launch section and shape of a run -> what a process found (``experiments.options.Packing`` as JSON).
    """

    def __init__(self, slots: Callable[[LaunchSpec], int]) -> None:
        self._slots = slots
        self._leaders: dict[str, str] = {}
        self.measured: dict[tuple[LaunchSpec, str], Mapping[str, Any]] = {}

    def learn(self, task: Job, packing: Mapping[str, Any]) -> None:
        """A process measured how many runs of the shape of ``task`` to train together."""
        self.measured[task.launch, batch_key(task.spec)] = packing

    def known(self, task: Job) -> Mapping[str, Any] | None:
        """What was measured for runs of the shape of ``task``; None where nothing was yet."""
        return self.measured.get((task.launch, batch_key(task.spec)))

    def beside(
        self,
        first: Job,
        waiting: Iterable[Job],
        *,
        live: Mapping[str, Job],
        tries: Mapping[str, int],
        room: int | None = None,
    ) -> list[Job]:
        """Those of ``waiting`` that go into one process with ``first``.

        Runs are shared out evenly: no process gets many while another has none.

        Args:
            first: a run that is about to be executed.
            waiting: ready runs of the same launch section, in their order.
            live: runs that are being executed, ``first`` among them, by name.
            tries: how often in a row the process of a run died, by its name.
            room: for how many runs there is room; None: any number.
        """
        if first.launch.pack == 1 or not self._fits(first, tries):
            return []
        alike = [task for task in waiting if batch_key(task.spec) == batch_key(first.spec) and self._fits(task, tries)]
        busy = {self._leaders.get(name, name) for name, task in live.items() if task.launch == first.launch}
        free = max(1, self._slots(first.launch) - len(busy - {first.spec.name}))
        size = min(self._size(first), math.ceil((1 + len(alike)) / free))
        chosen = alike[: size - 1][:room]
        self._leaders |= {task.spec.name: first.spec.name for task in (first, *chosen)}
        return chosen

    @staticmethod
    def _fits(task: Job, tries: Mapping[str, int]) -> bool:
        """Whether it may be packed: not where it could take others along with it."""
        return not alone_because(task.spec) and tries.get(task.spec.name, 0) < DEATHS

    def _size(self, task: Job) -> int:
        if task.launch.pack != "auto":
            return task.launch.pack
        found = self.known(task)
        return MOST if found is None else int(found["size"])

"""A run in a queue, and how a process was through with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec


@dataclass(frozen=True)
class Job:
    """A run that is wanted.

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


@dataclass(frozen=True)
class JobOutcome:
    """How a process was through with a run.

    Attributes:
        state: ``done``; ``failed`` for a reason of its own; ``died``, process and all; ``away``: the store could not
            be reached; ``held`` by another driver; ``stopped`` as its node is to go; ``settled``: a scheduler ended it;
            ``spare``: it was handed out with others, and is not executed with them after all.
        why: a sentence, but for ``done``.
        values: its newest metrics.
    """

    state: Literal["done", "failed", "died", "away", "held", "stopped", "settled", "spare"]
    why: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

"""What sweeps used of their nodes: a file of each driver in the sweep's folder, and their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from pydantic import Field, ValidationError

from rt_scale.store.results import Stored
from rt_scale.store.store import SweepDir

Unit = Literal["gpu", "cpu"]
"""What runs occupy: GPUs, or CPU cores."""
PREFIX = "usage_"


class NodeRate(Stored):
    """What a kind of node costs an hour, on demand and as spot machine, None if unknown; ``known``: its source."""

    name: str
    gpus: int
    cpus: int
    accelerator: str | None = None
    on_demand: float | None = None
    spot: float | None = None
    currency: str
    known: str


class Planned(Stored):
    """The plan made as a driver started: hours until the end, GPU- or core-hours of the runs, and prices.

    Attributes:
        hours: until the last run is done; None if no run has an estimate.
        device_hours: of all runs, by unit.
        lost_hours: computed twice, at the planned rate of interruptions.
        rates: of the price sheet that was named.
    """

    hours: float | None = None
    device_hours: dict[Unit, float] = Field(default_factory=dict)
    lost_hours: float = 0.0
    rates: tuple[NodeRate, ...] = ()


class NodeUse(Stored):
    """One stay of a node: what it has, from when to when it was seen, and the seconds that runs held of each unit."""

    node: str
    name: str
    has: dict[Unit, float]
    accelerator: str = ""
    start: float
    end: float
    held: dict[Unit, float] = Field(default_factory=dict)


class RunProgress(Stored):
    """How far a run is that is executed: the step it began at and when, the newest step and when, and what it holds."""

    began: int
    since: float
    step: int
    seen: float
    holds: dict[Unit, float]

    @property
    def step_seconds(self) -> float:
        """Seconds of a step, as far as measured."""
        done = self.step - self.began
        return (self.seen - self.since) / done if done > 0 else 0.0


class Usage(Stored):
    """What one driver saw; times are seconds since 1970.

    Attributes:
        session: a random name of the driver.
        sweeps: executed by it as one queue.
        lost: GPU- or core-seconds that were computed twice, as runs were interrupted.
        interruptions: of runs, each of which lost steps.
        live: progress of the runs that have no result; a next driver compares its starts with it.
    """

    version: Literal[1] = 1
    session: str
    sweeps: tuple[str, ...]
    start: float
    end: float
    nodes: tuple[NodeUse, ...] = ()
    lost: dict[Unit, float] = Field(default_factory=dict)
    interruptions: int = 0
    live: dict[str, RunProgress] = Field(default_factory=dict)
    planned: Planned | None = None


def write_usage(folder: SweepDir, usage: Usage) -> None:
    """Record what a driver saw in the sweep's folder, also in an object store."""
    folder.record(f"{PREFIX}{usage.session}.json", usage.to_json())


def read_usage(folders: Iterable[SweepDir]) -> list[Usage]:
    """What all drivers of some sweeps saw, each once, the first first; unreadable files are left out."""
    found: dict[str, Usage] = {}
    for folder in folders:
        for path in sorted(folder.path.glob(f"{PREFIX}*.json")):
            with suppress(OSError, ValidationError):
                usage = Usage.model_validate_json(path.read_bytes())
                found[usage.session] = usage
    return sorted(found.values(), key=lambda usage: usage.start)


def latest_progress(usages: Sequence[Usage]) -> dict[str, RunProgress]:
    """How far runs were that earlier drivers executed, by name."""
    return {
        name: progress for usage in sorted(usages, key=lambda each: each.end) for name, progress in usage.live.items()
    }


def stays(usages: Sequence[Usage]) -> list[NodeUse]:
    """The stays of all nodes; what two drivers saw of a node at the same time counts once."""
    found: list[NodeUse] = []
    until: dict[str, float] = {}
    for stay in sorted((stay for usage in usages for stay in usage.nodes), key=lambda stay: (stay.start, stay.end)):
        start = max(stay.start, until.get(stay.node, stay.start))
        if start < stay.end:
            share = (stay.end - start) / (stay.end - stay.start)
            held = {unit: share * seconds for unit, seconds in stay.held.items()}
            found.append(stay.model_copy(update={"start": start, "held": held}))
        until[stay.node] = max(until.get(stay.node, stay.end), stay.end)
    return found


def total(parts: Iterable[Mapping[Unit, float]]) -> dict[Unit, float]:
    """The sum by unit."""
    found: dict[Unit, float] = {}
    for part in parts:
        for unit, amount in part.items():
            found[unit] = found.get(unit, 0.0) + amount
    return found

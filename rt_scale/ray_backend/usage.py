"""The driver's meter: which nodes are there, what runs hold of them, and what interrupted runs compute twice."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import ray
from ray._private.state import available_resources_per_node

from rt_scale.ray_backend.resources import ACCELERATOR
from rt_scale.scheduler.job import Job, RunReport
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.objects.uri import is_address
from rt_scale.store.store import SweepDir
from rt_scale.store.usage import (
    NodeUse,
    Planned,
    RunProgress,
    Unit,
    Usage,
    latest_progress,
    read_usage,
    write_usage,
)  # fmt: skip

SAMPLE_S = 5.0
"""Seconds between two looks at the nodes."""
WRITE_S, WRITE_AWAY_S = 10.0, 60.0
"""Seconds between two records, in a folder and in an object store: what a killed driver loses at most."""
UNITS: Mapping[str, Unit] = {"GPU": "gpu", "CPU": "cpu"}
"""Ray's names of what is counted."""


class Meter:
    """Counts what the sweeps of one driver use; the driver calls it a few times a second.

    Args:
        folders: of the sweeps, all of which get the record.
        place: of their store.
        planned: the plan made before, if any.
    """

    def __init__(self, folders: Sequence[SweepDir], place: str, planned: Planned | None = None) -> None:
        self._folders, self._planned = folders, planned
        self._every = WRITE_AWAY_S if is_address(place) else WRITE_S
        self._session, self._start = secrets.token_hex(8), time.time()
        self._sampled = self._written = -WRITE_AWAY_S
        self._seen = 0.0
        self._open: dict[str, NodeUse] = {}
        self._closed: list[NodeUse] = []
        self._progress = latest_progress(read_usage(folders))
        self._interrupted = set(self._progress)
        self._lost: dict[Unit, float] = {}
        self._interruptions = 0

    def look(self) -> None:
        """Look at the nodes, and record, if it is time for it."""
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_S:
            self._sampled = now
            self._try_to_sample()
        if now - self._written >= self._every:
            self._written = now
            self.write()

    def _try_to_sample(self) -> None:
        with suppress(Exception):  # the cluster may be lost, which others tell; what was seen before is recorded
            self._sample(time.time())

    def _sample(self, now: float) -> None:
        """Extend the stays of the nodes that are still there; ``now``: seconds since 1970."""
        free = available_resources_per_node()
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
        for gone in self._open.keys() - alive.keys():
            self._closed.append(self._open.pop(gone))
        for key, node in alive.items():
            has: dict[Unit, float] = {unit: node["Resources"].get(name, 0.0) for name, unit in UNITS.items()}
            types = [each.removeprefix(ACCELERATOR) for each in node["Resources"] if each.startswith(ACCELERATOR)]
            stay = self._open.get(key) or NodeUse(
                node=key,
                name=node["NodeManagerAddress"],
                has=has,
                accelerator=", ".join(types),
                start=now,
                end=now,
            )
            held = {
                unit: stay.held.get(unit, 0.0) + (has[unit] - free.get(key, {}).get(name, 0.0)) * (now - stay.end)
                for name, unit in UNITS.items()
            }
            self._open[key] = stay.model_copy(update={"end": now, "held": held})
        self._seen = now

    def reported(self, job: Job, report: RunReport) -> None:
        """Note how far a run is; if it began again before the step that it had reached, those steps are lost."""
        if report.began is None:
            return
        now, before = time.time(), self._progress.get(job.name)
        if before is None or job.name in self._interrupted or report.step < before.step:
            self._interrupted.discard(job.name)
            if before is not None and before.step > report.began:
                again = (before.step - max(report.began, before.began)) * before.step_seconds
                for unit, amount in before.holds.items():
                    self._lost[unit] = self._lost.get(unit, 0.0) + amount * again
                self._interruptions += 1
            before = RunProgress(began=report.began, since=now, step=report.began, seen=now, holds=_holds(job.launch))
        self._progress[job.name] = before.model_copy(update={"step": report.step, "seen": now})

    def ended(self, job: Job, *, final: bool) -> None:
        """An attempt at a run ended; if it was the last, the run is forgotten."""
        if final:
            self._progress.pop(job.name, None)
        else:
            self._interrupted.add(job.name)

    def usage(self) -> Usage:
        """What was seen up to now."""
        return Usage(
            session=self._session, sweeps=tuple(folder.name for folder in self._folders), start=self._start,
            end=max(self._seen, self._start), nodes=(*self._closed, *self._open.values()), lost=self._lost,
            interruptions=self._interruptions, live=self._progress, planned=self._planned,
        )  # fmt: skip

    def write(self) -> None:
        """Record it; a store that is away gets it the next time."""
        for folder in self._folders:
            with suppress(RtScaleError, OSError):
                write_usage(folder, self.usage())

    def close(self) -> None:
        """Look and record a last time."""
        self._try_to_sample()
        self.write()


def _holds(launch: LaunchSpec) -> dict[Unit, float]:
    """What a run holds with all of its workers."""
    return {"gpu": launch.gpus * launch.workers, "cpu": float(launch.cpus * launch.workers)}

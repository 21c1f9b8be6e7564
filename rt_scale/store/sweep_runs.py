"""A sweep with its runs, as far as a store knows them: the one form in which sweeps are handed around."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rt_scale.spec import grid
from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.grid import Point, points_at
from rt_scale.spec.sweep import SweepSpec, parse_sweep
from rt_scale.spec.yaml_files import read_text
from rt_scale.store.atomic import read_json
from rt_scale.store.store import FILE, Store, SweepDir

SAMPLED, STOPPED = "sampled.json", "stopped.json"
"""Files in a sweep's folder: the points that its search sampled, and the runs that its rule ended early."""


@dataclass(frozen=True)
class SweepRuns:
    """A sweep file with its runs.

    Attributes:
        spec: what the file says.
        grid: the runs of its grid; of a search none.
        store: where they are kept.
        text: the file.
        overrides: ``--set`` assignments that were made to it.
    """

    spec: SweepSpec
    grid: Sequence[Point]
    store: Store
    text: str = ""
    overrides: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.spec.name

    @property
    def folder(self) -> SweepDir:
        """Its folder in the store."""
        return self.store.sweep(self.spec.name)

    @property
    def points(self) -> Sequence[Point]:
        """Its runs as far as they are known now: the grid's, or those that its search sampled so far, each once."""
        if self.spec.explore is None or self.spec.explore.search is None:
            return self.grid
        sampled = (run_at(self.spec, values) for values in read_sampled(self.folder))
        return list({point.spec.name: point for point in sampled if point is not None}.values())

    @property
    def to_sample(self) -> int:
        """How many points its search has not sampled yet; of a plain grid none."""
        if self.spec.explore is None or self.spec.explore.search is None:
            return 0
        return max(0, most_points(self.spec.explore) - len(read_sampled(self.folder)))

    @property
    def early_stopped(self) -> dict[str, EarlyStop]:
        """The runs that its present rule ended early, by name."""
        if self.spec.explore is None or self.spec.explore.stop is None:
            return {}
        return EarlyStops(self.spec.explore, self.folder).runs()


def read_sweep(file: Path, overrides: Sequence[str], store: Store, most: int | None = None) -> SweepRuns:
    """The sweep in a file, with its runs; a store's own file with the assignments that it was run with.

    Args:
        file: read once: it may be a pipe.
        overrides: more ``--set`` assignments.
        store: where the runs are kept.
        most: runs of a grid; None: as many as start without --yes, or as were started in ``store``.

    Raises:
        InputError: where the file, an assignment or a run is not valid, or the grid is too large.
    """
    assigned = [*(SweepDir(file.parent).overrides() if file.name == FILE else []), *overrides]
    text = read_text(file)
    spec = parse_sweep(text, str(file), assigned)
    if most is not None:
        grid.refuse_large(spec, most)
    elif grid.grid_size(spec) > grid.GRID_LIMIT:
        store.refresh(curves=False)
        started = len(store.sweep(spec.name).runs())
        grid.refuse_large(spec, max(grid.GRID_LIMIT, started), "start them with 'rt-scale sweep --yes' in this store")
    return SweepRuns(spec, grid.expand(spec), store, text, assigned)


def refuse_equal_names(sweeps: Sequence[SweepRuns], what: str) -> None:
    """Refuse sweeps that share a name (InputError); ``what`` is done with them, e.g. ``run together``."""
    if len({sweep.name for sweep in sweeps}) < len(sweeps):
        names = ", ".join(sweep.name for sweep in sweeps)
        raise InputError(f"Sweeps that are {what} need names of their own; given: {names}.")


def read_sampled(sweep: SweepDir) -> list[dict[str, object]]:
    """The points sampled so far by the sweep, in their order: dotted field -> value."""
    try:
        points: list[dict[str, object]] = read_json(sweep.path / SAMPLED)["points"]
    except FileNotFoundError:
        return []
    return points


def most_points(explore: ExploreSpec) -> int:
    """How many points a search samples at most: no more than its space has."""
    assert explore.search is not None  # who samples, searches
    return int(min(explore.search.optuna.runs, math.prod(domain.size for domain in explore.domains.values())))


def run_at(sweep: SweepSpec, values: Mapping[str, object]) -> Point | None:
    """The run at a sampled point; None where there can be none, as between valid corners may be."""
    try:
        (point,) = points_at(sweep, [values])
    except InputError:
        return None
    return point


@dataclass(frozen=True)
class EarlyStop:
    """Why a rule ended a run early.

    Attributes:
        rule: its name, ``asha`` or ``median``.
        step: optimiser steps that the run had done.
        time: the same in the rule's unit.
        unit: ``ep`` (epochs) or ``it`` (optimiser steps).
        metric: that the rule goes by.
        value: what the run had reached in it.
    """

    rule: str
    step: int
    time: float
    unit: str
    metric: str
    value: float

    def __str__(self) -> str:
        unit = "epochs" if self.unit == "ep" else "steps"
        return f"{self.rule} after {self.time:g} {unit}: {self.metric} was {self.value:.6g}"


class EarlyStops:
    """The runs of one sweep that its present rule ended early, kept in the sweep's folder; one driver writes.

    Their directories stay partial, so that a sweep without the rule goes on with them. Under another metric, mode or
    rule none counts as ended.
    """

    def __init__(self, explore: ExploreSpec, sweep: SweepDir) -> None:
        self._sweep = sweep
        self._rule = explore.model_dump(mode="json", include={"metric", "mode", "stop"})

    def runs(self) -> dict[str, EarlyStop]:
        """Name of a run -> how it was ended, as the file now says."""
        try:
            found = read_json(self._sweep.path / STOPPED)
        except FileNotFoundError:
            return {}
        return {name: EarlyStop(**run) for name, run in found["runs"].items()} if found["rule"] == self._rule else {}

    def record(self, name: str, stop: EarlyStop) -> None:
        """Add the run ``name``; runs of another rule are forgotten."""
        runs = {**self.runs(), name: stop}
        record = {"rule": self._rule, "runs": {key: asdict(each) for key, each in runs.items()}}
        self._sweep.record(STOPPED, record)

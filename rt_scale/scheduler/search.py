"""A search as a source of runs: points become runs, and what becomes of runs decides the next points."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rt_scale.scheduler.early_stopping import StoppedRuns
from rt_scale.scheduler.sampler import Sampler, most_points, read_sampled
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point, points_at
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store


def sampled_points(sweep: SweepSpec, store: Store) -> list[Point]:
    """The runs that a search sampled so far, in their order, each once; of a plain grid none."""
    points: dict[str, Point] = {}
    if sweep.explore is not None and sweep.explore.search is not None:
        for values in read_sampled(store.sweep(sweep.name)):
            if (point := _run_at(sweep, values)) is not None:
                points.setdefault(point.spec.name, point)
    return list(points.values())


def known_points(sweep: SweepSpec, points: Sequence[Point], store: Store) -> list[Point]:
    """The runs of a sweep as far as they are known: ``points``, its grid's, or those that its search sampled."""
    return [*points, *sampled_points(sweep, store)]


def to_be_sampled(sweep: SweepSpec, store: Store) -> int:
    """How many points its search has not sampled yet; of a plain grid none."""
    if sweep.explore is None or sweep.explore.search is None:
        return 0
    return max(0, most_points(sweep.explore) - len(read_sampled(store.sweep(sweep.name))))


def _run_at(sweep: SweepSpec, values: Mapping[str, Any]) -> Point | None:
    """The run at a sampled point; None where there can be none, as between valid corners may be."""
    try:
        (point,) = points_at(sweep, [values])
    except InputError:
        return None
    return point


class Search:
    """Hands out the runs of a sweep with ``explore.search``, and learns from how they end.

    What an earlier driver sampled is read from the sweep's folder, and how its runs ended from their directories.

    Args:
        sweep: the sweep.
        store: where it is kept.
        failed: names of runs that are not tried again.
    """

    def __init__(self, sweep: SweepSpec, store: Store, failed: Collection[str] = ()) -> None:
        assert sweep.explore is not None  # a search is asked for
        self._sweep, self._metric = sweep, sweep.explore.metric
        folder = store.sweep(sweep.name)
        self._sampler = Sampler(sweep.explore, folder)
        self._ids: dict[str, list[str]] = {}
        self._ended: dict[str, float | None] = {}
        stopped = StoppedRuns(sweep.explore, folder).runs()
        for values in read_sampled(folder):
            point = _run_at(sweep, values)
            if point is None:
                continue
            name, result = point.spec.name, store.run(point.spec).result()
            if result is not None:
                self._ended[name] = result.last.get(self._metric)
            elif name in stopped:
                self._ended[name] = stopped[name].value
            elif name in failed:
                self._ended[name] = None
            if name in self._ended:
                self._sampler.known(values, self._ended[name])

    @property
    def left(self) -> int:
        """How many points are not sampled yet, as far as is known."""
        return self._sampler.left

    def next(self) -> Point | None:
        """A run to execute, each once; None when no more are to be sampled."""
        while (found := self._sampler.suggest()) is not None:
            number, values = found
            point = _run_at(self._sweep, values)
            if point is None:
                self._sampler.observed(number, None)
                continue
            name = point.spec.name
            self._ids.setdefault(name, []).append(number)
            if name in self._ended:
                self._sampler.observed(number, self._ended[name])
            elif len(self._ids[name]) == 1:
                return point
        return None

    def ended(self, name: str, value: float | None) -> None:
        """Learn how a run ended.

        Args:
            name: of the run.
            value: its last one of the metric; None: it failed.
        """
        self._ended[name] = value
        for number in self._ids.get(name, []):
            self._sampler.observed(number, value)

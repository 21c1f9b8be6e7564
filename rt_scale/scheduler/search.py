"""A search as a source of runs: points become runs, and what becomes of runs decides the next points."""

from __future__ import annotations

from collections.abc import Collection

from rt_scale.scheduler.sampler import Sampler
from rt_scale.spec.grid import Point
from rt_scale.store.sweep_runs import SweepRuns, read_sampled, run_at


class Search:
    """Hands out the runs of a sweep with ``explore.search``, and learns from how they end.

    What an earlier driver sampled is read from the sweep's folder, and how its runs ended from their directories.

    Args:
        sweep: the sweep.
        failed: names of runs that are not tried again.
    """

    def __init__(self, sweep: SweepRuns, failed: Collection[str] = ()) -> None:
        assert sweep.spec.explore is not None  # a search is asked for
        self._sweep, self._metric = sweep.spec, sweep.spec.explore.metric
        self._sampler = Sampler(sweep.spec.explore, sweep.folder)
        self._ids: dict[str, list[str]] = {}
        self._ended: dict[str, float | None] = {}
        stopped = sweep.early_stopped
        for values in read_sampled(sweep.folder):
            point = run_at(sweep.spec, values)
            if point is None:
                continue
            name, result = point.spec.name, sweep.store.run(point.spec).result()
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
            point = run_at(self._sweep, values)
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

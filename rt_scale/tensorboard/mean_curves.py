"""Curves of a configuration: the mean over its seeds, with its interval."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rt_scale.spec.metrics import Bounds, metric_bounds
from rt_scale.store.interval import interval


@dataclass(frozen=True)
class MeanCurve:
    """A metric over the steps at which every seed was measured.

    Attributes:
        steps: int64 [S], increasing.
        times: float64 [S]; seconds since 1970 at which the last seed got there.
        mean: float64 [S].
        low, high: float64 [S], the ends of the interval of the mean; NaN where there is none, see ``interval``.
    """

    steps: np.ndarray
    times: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curves(seeds: Sequence[Mapping[str, Sequence[Any]]], names: Collection[str]) -> dict[str, MeanCurve]:
    """The mean curve of every metric in ``names`` that all seeds have, in that order.

    Args:
        seeds: columns ``step``, ``name``, ``value`` and ``time`` of each seed's metrics table.
        names: of metrics.
    """
    wanted = set(names)
    series = [_series(seed, wanted) for seed in seeds]
    curves = {}
    for name in names:
        members = [seed.get(name, {}) for seed in series]
        if members and (steps := sorted(set.intersection(*(set(member) for member in members)))):
            curves[name] = _mean(steps, members, metric_bounds(name))
    return curves


def _series(table: Mapping[str, Sequence[Any]], wanted: set[str]) -> dict[str, dict[int, tuple[float, float]]]:
    """name -> step -> (value, time)."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for step, name, value, time in zip(table["step"], table["name"], table["value"], table["time"], strict=True):
        if name in wanted:
            found.setdefault(name, {})[step] = (value, time)
    return found


def _mean(steps: Sequence[int], seeds: Sequence[Mapping[int, tuple[float, float]]], bounds: Bounds) -> MeanCurve:
    values, times = np.array([[seed[step] for step in steps] for seed in seeds]).transpose(2, 0, 1)
    # A seed may have diverged: the mean is then infinite or no number, which is what is shown.
    with np.errstate(invalid="ignore", over="ignore"):
        mean = values.mean(axis=0)
        std = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(steps), np.nan)
        low, high = interval(mean, std, len(seeds), bounds)
    return MeanCurve(np.array(steps), times.max(axis=0), mean, low, high)

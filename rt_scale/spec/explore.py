"""ExploreSpec: early stopping of runs, and a search that samples points instead of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from rt_scale.spec.errors import InputError, shown, unknown_name
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.metrics import is_constant
from rt_scale.spec.part import MOST, Part, whole
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schedule import Duration, duration_steps

MOST_CORNERS = 10_000
"""Largest number of corners of a search space; all are checked before the search starts."""
MOST_RUNS = 1_000_000
"""Largest number of runs in a sweep: making so many specs takes a minute and 3 GB."""
_INSIDE = (3 - 5**0.5) / 2  # irrational, so that the inner value of a range is not a whole number by chance


@dataclass(frozen=True)
class Domain:
    """The values that one field can have.

    Attributes:
        kind: ``choice`` of listed values, ``uniform`` or ``loguniform`` real numbers, ``pow2`` powers of two.
        values: the listed values; else the least and the greatest (for ``pow2`` the exponents).
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def listed(self) -> list[Any] | None:
        """All values; None for real numbers."""
        if self.kind == "pow2":
            return [2**exponent for exponent in range(self.values[0], self.values[1] + 1)]
        return list(self.values) if self.kind == "choice" else None

    @property
    def corners(self) -> list[Any]:
        """The values to validate: all listed ones, else both ends and, for real numbers, one inner value."""
        if self.kind == "choice":
            return list(self.values)
        if self.kind == "pow2":
            return [2**exponent for exponent in dict.fromkeys(self.values)]
        low, high = self.values
        return [low, low + _INSIDE * (high - low), high]

    @property
    def size(self) -> float:
        """Number of values; infinity for real numbers."""
        return math.inf if self.listed is None else len(self.listed)


Ranges = Mapping[str, tuple[str, Callable[..., bool]]]
"""Name of a kind of range -> its numbers in words, and whether such numbers (finite, that many) are valid."""
POW2 = (
    "[from, to], whole exponents of 2 with 0 <= from <= to <= 62",
    lambda low, high: type(low) is type(high) is int and 0 <= low <= high <= 62,
)
DOMAINS: Ranges = {
    "uniform": ("[from, to] with from < to", lambda low, high: -1e308 < low < high < 1e308),
    "loguniform": ("[from, to] with 0 < from < to", lambda low, high: 0 < low < high < 1e308),
    "pow2": POW2,
}


def parse_range(key: str, given: Mapping[str, list[Any]], ranges: Ranges) -> tuple[str, list[Any]]:
    """Kind and numbers of the range of the field ``key``, e.g. ``{pow2: [0, 16]}``; InputError if it is not valid."""
    if len(given) != 1:
        raise InputError(f"{key} needs a list of values, or one of {', '.join(ranges)}; given: {shown(given)}.")
    ((kind, ends),) = given.items()
    if kind not in ranges:
        raise unknown_name(f"kind of range of {key}", kind, ranges)
    text, valid = ranges[kind]
    numbers: list[Any] = [whole(number) for number in ends]
    finite = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    if not finite or len(numbers) != text.partition("]")[0].count(",") + 1 or not valid(*numbers):
        raise InputError(f"{key} needs {kind}: {text}; given: {shown(ends)}.")
    return kind, numbers


def parse_domain(key: str, given: list[Any] | dict[str, list[Any]]) -> Domain:
    """The domain of the field ``key`` from a sweep file; raises InputError if it is not valid."""
    if isinstance(given, list):
        texts = [repr(value) for value in given]
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"{key} needs a list of at least one value, each once; given: {shown(given)}.")
        return Domain("choice", tuple(given))
    kind, ends = parse_range(key, given, DOMAINS)
    return Domain(kind, tuple(ends if kind == "pow2" else map(float, ends)))


class AshaSpec(Part):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934)."""

    grace: Duration
    """Training before a run can be stopped: the first rung. Each next rung is at ``reduction`` times the last."""
    reduction: float = Field(4.0, gt=1)
    """A run continues past a rung if it is among the best 1/reduction of the runs that have reached it."""


class MedianSpec(Part):
    """The median stopping rule (Golovin et al. 2017, Google Vizier)."""

    grace: Duration
    """Training before a run can be stopped."""
    min_runs: int = Field(3, ge=1, le=MOST)
    """Other runs that must have trained as long before a run is stopped."""


class StopSpec(Part):
    """The rule for early stopping: exactly one of asha and median."""

    asha: AshaSpec | None = None
    """Asynchronous successive halving."""
    median: MedianSpec | None = None
    """Stops a run whose best value is worse than the median of the other runs' means so far."""

    @model_validator(mode="after")
    def _one(self) -> StopSpec:
        if (self.asha is None) == (self.median is None):
            raise ValueError("give one of asha: {grace: 5ep, reduction: 4} and median: {grace: 5ep, min_runs: 3}")
        return self

    @property
    def name(self) -> str:
        """``asha`` or ``median``."""
        return "asha" if self.asha is not None else "median"

    @property
    def grace(self) -> str:
        """Training before a run can be stopped, e.g. ``5ep``."""
        rule = self.asha or self.median
        assert rule is not None  # the validator requires one
        return rule.grace

    @property
    def unit(self) -> Literal["ep", "it"]:
        """Unit of ``grace``: epochs or optimiser steps."""
        return "ep" if self.grace.endswith("ep") else "it"


class OptunaSpec(Part):
    """Optuna's tree-structured Parzen estimator."""

    runs: int = Field(ge=1, le=MOST_RUNS)
    """Points to sample, one run each; the first 10 are random. It may grow later."""
    seed: int = Field(0, ge=0)
    """Seed of the sampler, not of the runs."""


class SearchSpec(Part):
    """The sampler of a search."""

    optuna: OptunaSpec
    """Optuna (an optional dependency: pip install 'rt-scale[explore]')."""


class ExploreSpec(Part):
    """Exploration: early stopping of runs, a search in place of a grid, or both."""

    metric: str
    """A metric that every run logs, e.g. probe/student/linear; a search optimises its last value."""
    mode: Literal["max", "min"]
    """Whether a larger (max) or a smaller (min) value is better."""
    stop: StopSpec | None = None
    """Early stopping; null: all runs train to their end."""
    search: SearchSpec | None = None
    """Samples points of space in place of axes and zip, with one seed; null: the grid."""
    space: dict[str, list[Any] | dict[str, list[Any]]] = Field(default={})
    """With search: dotted field -> list of values, or {uniform: [from, to]}, {loguniform: [from, to]} or
    {pow2: [from exponent, to exponent]}."""

    @model_validator(mode="after")
    def _whole(self) -> ExploreSpec:
        if self.stop is None and self.search is None:
            raise ValueError("give stop, search or both; to run the plain grid, leave explore out")
        if (self.search is None) == bool(self.space):
            raise ValueError(
                "search and space belong together: search samples the fields of space, e.g. "
                "search: {optuna: {runs: 40}} with space: {student.alpha: {loguniform: [1e-10, 1]}}"
            )
        corners = math.prod(len(domain.corners) for domain in self.domains.values())
        if corners > MOST_CORNERS:
            raise ValueError(
                f"space has {corners} corners, which are all checked before anything starts; at most "
                f"{MOST_CORNERS} are allowed: search fewer fields, or list fewer values"
            )
        return self

    @property
    def domains(self) -> dict[str, Domain]:
        """Dotted field -> its domain."""
        return {key: parse_domain(key, given) for key, given in self.space.items()}


def check_grid(explore: ExploreSpec, axes: Iterable[str], seeds: Sequence[int]) -> None:
    """Raise InputError if a search is combined with axes (dotted fields) or with several seeds."""
    if explore.search is None:
        return
    fields = list(axes)
    if fields:
        raise InputError(
            f"explore.search samples its points, so axes and zip must be empty; given: {', '.join(fields)}. Give "
            "these fields a list of values in explore.space, or a value in base."
        )
    if len(seeds) > 1:
        raise InputError(
            f"explore.search runs every point with one seed, but {len(seeds)} were given: set seeds to 1, or to a "
            "list of one, and repeat its best points as a plain grid with more seeds."
        )


def check_explore(explore: ExploreSpec, specs: Iterable[RunSpec]) -> None:
    """Raise InputError if a run does not log the metric, or logs it too late or too rarely for the stopping rule.

    ``specs`` are the runs of the grid or at the corners of the space.
    """
    for spec in specs:
        known = spec.logged
        if explore.metric not in known:
            raise unknown_name("metric in explore.metric", explore.metric, known)
        if explore.stop is not None:
            if not isinstance(spec, TrainingSpec):
                raise InputError(f"explore.stop ends trainings early, and kind {spec.kind} is none: leave stop out.")
            _check_stop(explore, explore.stop, spec, at_probes=known[explore.metric] == "probe")


def check_length(stop: StopSpec, spec: TrainingSpec, steps_per_epoch: int) -> None:
    """Raise InputError if the grace is not shorter than the run; ``steps_per_epoch`` is not used for epochs."""
    steps = spec.train.end(steps_per_epoch)
    if duration_steps(stop.grace, steps_per_epoch) >= steps:
        length = spec.train.stop or (f"{spec.train.epochs}ep" if stop.unit == "ep" else f"{steps}it")
        raise InputError(
            f"explore.stop.{stop.name}.grace is {stop.grace}, but a run lasts {length}: none would be stopped early. "
            "Shorten the grace, or leave explore.stop out."
        )


def _check_stop(explore: ExploreSpec, stop: StopSpec, spec: TrainingSpec, at_probes: bool) -> None:
    grace = f"explore.stop.{stop.name}.grace is {stop.grace}"
    every = spec.probe.every if at_probes else "1ep"
    if is_constant(explore.metric, frozen_teacher=not spec.teacher.moves):
        raise InputError(
            f"explore.metric {explore.metric} does not change while a run trains, so it cannot stop a run early: "
            "name a metric of the student, or leave explore.stop out."
        )
    if every is None:
        raise InputError(
            f"explore.metric {explore.metric} is only known at the end of a run, as probe.every is null: set "
            f"probe.every to {stop.grace} or less, or leave explore.stop out."
        )
    if every[-2:] != stop.unit:
        raise InputError(
            f"{grace}, but {explore.metric} is measured every {every}: write "
            f"{'both in one unit' if at_probes else 'the grace in epochs'}, so that they can be compared."
        )
    if duration_steps(every, 1) > duration_steps(stop.grace, 1):
        raise InputError(
            f"{grace}, but {explore.metric} is measured every {every}, so it has no value by then: probe more "
            f"often (probe.every: {stop.grace}), or lengthen the grace."
        )
    if stop.unit == "ep" and not (spec.train.stop or "").endswith("it"):
        check_length(stop, spec, 1)

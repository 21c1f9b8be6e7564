"""A search as a source of runs: points sampled by Optuna, each written down before it is run, become runs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import Domain, ExploreSpec
from rt_scale.spec.grid import Point
from rt_scale.spec.run import stream
from rt_scale.store.atomic import read_json
from rt_scale.store.store import SweepDir
from rt_scale.store.sweep_runs import SAMPLED, SweepRuns, most_points, read_sampled, run_at

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ATTEMPTS = 100
"""Draws for a point that was not sampled before, after which the space counts as used up."""


@functools.cache
def require_optuna() -> ModuleType:
    """Optuna, quiet; InputError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise InputError(
            "explore.search needs Optuna, which is not installed. Install it with: pip install 'rt-scale[explore]', "
            "or leave explore.search out and give axes."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Sampler:
    """Hands out the points of a search.

    The n-th point depends on the seed, n, and what was known when it was sampled, and on nothing of the process.
    Points that an earlier driver sampled are handed out again, first, unless :meth:`known` says how they ended.

    Args:
        explore: the section, which has ``search``.
        sweep: the sweep's folder in the store, which one driver at a time writes.

    Raises:
        InputError: where Optuna is not installed, or earlier points were sampled from another space.
    """

    def __init__(self, explore: ExploreSpec, sweep: SweepDir) -> None:
        assert explore.search is not None  # who samples, searches
        self._optuna, self._search, self._mode = require_optuna(), explore.search.optuna, explore.mode
        self._space, self._domains = explore.space, explore.domains
        self._sweep = sweep
        self._points = read_sampled(sweep)
        self._handed: set[int] = set()
        self._values: dict[int, float | None] = {}
        self._most, self._used_up = most_points(explore), False
        if self._points and (known := _text(read_json(sweep.path / SAMPLED)["space"])) != _text(self._space):
            raise InputError(
                f"'{sweep.path / SAMPLED}' holds points of another space: {known}; the sweep "
                f"file now has {_text(self._space)}. Give the sweep another name, or put the space back."
            )

    @property
    def left(self) -> int:
        """How many points are not sampled yet, as far as is known."""
        return 0 if self._used_up else max(0, self._most - len(self._points))

    def suggest(self) -> tuple[str, dict[str, object]] | None:
        """The next point to run: its id, and dotted field -> value; None when there are no more."""
        for number, values in enumerate(self._points):
            if number not in self._values and number not in self._handed:
                return self._hand_out(number, values)
        if len(self._points) >= self._most:
            return None
        new = self._sample()
        self._used_up = new is None
        if new is None:
            return None
        self._points.append(new)
        self._sweep.record(SAMPLED, {"space": self._space, "points": self._points})
        return self._hand_out(len(self._points) - 1, new)

    def observed(self, id: str, value: float | None) -> None:
        """Say how a point ended.

        Args:
            id: as :meth:`suggest` gave it.
            value: of the metric, the last one of a run that was ended early; None, or no finite number: it failed.
        """
        self._values[int(id)] = value if value is not None and math.isfinite(value) else None

    def known(self, values: Mapping[str, object], value: float | None) -> None:
        """Say how a point of an earlier driver ended, before any is asked for.

        Args:
            values: as ``read_sampled`` gives them.
            value: as :meth:`observed`.

        Raises:
            ValueError: where no such point was sampled.
        """
        self.observed(str([_text(point) for point in self._points].index(_text(values))), value)

    def _hand_out(self, number: int, values: dict[str, object]) -> tuple[str, dict[str, object]]:
        self._handed.add(number)
        return str(number), dict(values)

    def _sample(self) -> dict[str, object] | None:
        before = {_text(point) for point in self._points}
        for attempt in range(ATTEMPTS):
            values = self._draw(stream("explore", self._search.seed, len(self._points), attempt) % 2**32)
            if _text(values) not in before:
                return values
        return None

    def _draw(self, seed: int) -> dict[str, object]:
        """One draw from everything known: a fresh study each time, so that it has no state of its own."""
        optuna = self._optuna
        study = optuna.create_study(
            direction="maximize" if self._mode == "max" else "minimize",
            # Points that are still running count as bad ones: several runs at a time do not crowd.
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        )
        distributions = {key: _distribution(optuna, domain) for key, domain in self._domains.items()}
        states = optuna.trial.TrialState
        for number, point in enumerate(self._points):
            value = self._values.get(number)
            ended = states.FAIL if number in self._values else states.RUNNING
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.COMPLETE if value is not None else ended,
                    value=value,
                    params={key: _to_optuna(self._domains[key], point[key]) for key in self._domains},
                    distributions=distributions,
                )
            )
        drawn = study.ask(distributions).params
        return {key: _from_optuna(domain, drawn[key]) for key, domain in self._domains.items()}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _distribution(optuna: ModuleType, domain: Domain) -> BaseDistribution:
    kinds, ends = optuna.distributions, domain.values
    found: BaseDistribution
    if domain.kind == "choice":
        # By their places: Optuna knows numbers, text and null alone.
        found = kinds.CategoricalDistribution(range(len(ends)))
    elif domain.kind == "pow2":
        found = kinds.IntDistribution(*ends)
    else:
        found = kinds.FloatDistribution(*ends, log=domain.kind == "loguniform")
    return found


def _from_optuna(domain: Domain, drawn: Any) -> Any:
    if domain.kind == "choice":
        return domain.values[drawn]
    if domain.kind == "pow2":
        return 2**drawn
    # Six digits, which is what labels show: two points never look alike.
    return min(max(float(f"{drawn:.6g}"), domain.values[0]), domain.values[1])


def _to_optuna(domain: Domain, value: Any) -> Any:
    if domain.kind == "choice":
        return [_text(each) for each in domain.values].index(_text(value))
    return value.bit_length() - 1 if domain.kind == "pow2" else value


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

"""A search: runs at points that Optuna samples, each recorded before it is run."""

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
"""After this many draws without a new point, the space counts as exhausted."""


@functools.cache
def require_optuna() -> ModuleType:
    """Optuna, which logs only warnings; InputError if it is not installed."""
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
    """Samples the points of a search.

    The n-th point depends only on the seed, n, and the results known when it is sampled. Points of an earlier driver
    come first, unless :meth:`known` reported how they ended. One driver at a time may write the folder ``sweep``.

    InputError: Optuna is not installed, or earlier points were sampled from another space.
    """

    def __init__(self, explore: ExploreSpec, sweep: SweepDir) -> None:
        assert explore.search is not None
        self._optuna, self._search, self._mode = require_optuna(), explore.search.optuna, explore.mode
        self._space, self._domains = explore.space, explore.domains
        self._sweep = sweep
        self._points = read_sampled(sweep)
        self._handed: set[int] = set()
        self._values: dict[int, float | None] = {}
        self._most, self._exhausted = most_points(explore), False
        if self._points and (known := _text(read_json(sweep.path / SAMPLED)["space"])) != _text(self._space):
            raise InputError(
                f"'{sweep.path / SAMPLED}' holds points of another space: {known}; the sweep "
                f"file now has {_text(self._space)}. Give the sweep another name, or restore the space."
            )

    @property
    def left(self) -> int:
        """At most how many points are still to be sampled."""
        return 0 if self._exhausted else max(0, self._most - len(self._points))

    def suggest(self) -> tuple[str, dict[str, object]] | None:
        """The next point to run: its id, and dotted field -> value; None if there are no more."""
        for number, values in enumerate(self._points):
            if number not in self._values and number not in self._handed:
                return self._hand_out(number, values)
        if len(self._points) >= self._most:
            return None
        new = self._sample()
        self._exhausted = new is None
        if new is None:
            return None
        self._points.append(new)
        self._sweep.record(SAMPLED, {"space": self._space, "points": self._points})
        return self._hand_out(len(self._points) - 1, new)

    def observed(self, id: str, value: float | None) -> None:
        """Report the result of the point ``id``: the metric's last value; None or not finite if the run failed."""
        self._values[int(id)] = value if value is not None and math.isfinite(value) else None

    def known(self, values: Mapping[str, object], value: float | None) -> None:
        """Report the result of an earlier driver's point, before the first :meth:`suggest`.

        ``values``: the point, from ``read_sampled``; ValueError if no such point was sampled.
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
        """One draw given all known results, from a new study, so that no other state matters."""
        optuna = self._optuna
        study = optuna.create_study(
            direction="maximize" if self._mode == "max" else "minimize",
            # The constant liar counts running points as bad ones, which keeps parallel runs apart.
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
        # By index: Optuna's choices can only be numbers, text and null.
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
    # Six digits, as in labels, so that two points never have the same label.
    return min(max(float(f"{drawn:.6g}"), domain.values[0]), domain.values[1])


def _to_optuna(domain: Domain, value: Any) -> Any:
    if domain.kind == "choice":
        return [_text(each) for each in domain.values].index(_text(value))
    return value.bit_length() - 1 if domain.kind == "pow2" else value


class Search:
    """The runs of a sweep with ``explore.search``; reads an earlier driver's points and results from the store.

    ``failed``: names of runs that are not retried.
    """

    def __init__(self, sweep: SweepRuns, failed: Collection[str] = ()) -> None:
        assert sweep.spec.explore is not None
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
        """At most how many points are still to be sampled."""
        return self._sampler.left

    def next(self) -> Point | None:
        """The next run to execute, each once; None if there are no more."""
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
        """Report the metric's last value in the run ``name``; None if it failed."""
        self._ended[name] = value
        for number in self._ids.get(name, []):
            self._sampler.observed(number, value)

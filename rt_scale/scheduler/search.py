"""A search: runs at points that Optuna samples, each recorded before it is run."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Collection
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import Domain
from rt_scale.spec.grid import Point
from rt_scale.spec.part import json_text
from rt_scale.spec.run import stream
from rt_scale.store.atomic import read_json
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


class Search:
    """The runs of a sweep with ``explore.search``, at points that Optuna samples, each recorded before it is run.

    The n-th point depends only on the seed, n, and the results known when it is sampled. Runs that an earlier driver
    left open come first. One driver at a time may search.

    ``failed``: names of runs that are not retried. InputError: Optuna is not installed, or earlier points were sampled
    from another space.
    """

    def __init__(self, sweep: SweepRuns, failed: Collection[str] = ()) -> None:
        explore = sweep.spec.explore
        assert explore is not None
        assert explore.search is not None
        self._optuna, self._sweep, self._explore = require_optuna(), sweep, explore
        self._seed, self._most = explore.search.optuna.seed, most_points(explore)
        self._exhausted = False
        self._points: list[dict[str, object]] = []
        self._names: list[str] = []  # of the points' runs; empty where a point is no valid run
        self._open: deque[Point] = deque()
        self._ended: dict[str, float | None] = {}
        stopped = sweep.early_stopped
        for values in self._recorded():
            point = self._add(values)
            if point is None:
                continue
            name, result = point.spec.name, sweep.store.run(point.spec).result()
            if result is not None:
                self.ended(name, result.last.get(explore.metric))
            elif name in stopped:
                self.ended(name, stopped[name].value)
            elif name in failed:
                self.ended(name, None)
            else:
                self._open.append(point)

    def _recorded(self) -> list[dict[str, object]]:
        points, path = read_sampled(self._sweep.folder), self._sweep.folder.path / SAMPLED
        if points and (known := json_text(read_json(path)["space"])) != json_text(self._explore.space):
            raise InputError(
                f"'{path}' holds points of another space: {known}; the sweep file now has "
                f"{json_text(self._explore.space)}. Give the sweep another name, or restore the space."
            )
        return points

    def _add(self, values: dict[str, object]) -> Point | None:
        """Note a point; returns its run, None if that is not valid or is the run of another point, too."""
        point = run_at(self._sweep.spec, values)
        name = "" if point is None else point.spec.name
        known = name in self._names
        self._points.append(values)
        self._names.append(name)
        return None if known else point

    @property
    def left(self) -> int:
        """At most how many points are still to be sampled."""
        return 0 if self._exhausted else max(0, self._most - len(self._points))

    def next(self) -> Point | None:
        """The next run to execute, each once; None if there are no more."""
        while not self._open and self.left:
            values = self._sample()
            self._exhausted = values is None
            if values is not None:
                point = self._add(values)
                self._sweep.folder.record(SAMPLED, {"space": self._explore.space, "points": self._points})
                self._open += [] if point is None else [point]
        return self._open.popleft() if self._open else None

    def ended(self, name: str, value: float | None) -> None:
        """Report the metric's last value in the run ``name``; None or not finite if it failed."""
        self._ended[name] = value if value is not None and math.isfinite(value) else None

    def _sample(self) -> dict[str, object] | None:
        before = set(map(json_text, self._points))
        for attempt in range(ATTEMPTS):
            values = self._draw(stream("explore", self._seed, len(self._points), attempt) % 2**32)
            if json_text(values) not in before:
                return values
        return None

    def _draw(self, seed: int) -> dict[str, object]:
        """One draw given all known results, from a new study, so that no other state matters."""
        optuna, domains = self._optuna, self._explore.domains
        study = optuna.create_study(
            direction="maximize" if self._explore.mode == "max" else "minimize",
            # The constant liar counts running points as bad ones, which keeps parallel runs apart.
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        )
        distributions = {key: _distribution(optuna, domain) for key, domain in domains.items()}
        states = optuna.trial.TrialState
        for point, name in zip(self._points, self._names, strict=True):
            value = self._ended.get(name)
            ended = states.FAIL if name in self._ended or not name else states.RUNNING
            study.add_trial(
                optuna.trial.create_trial(
                    state=ended if value is None else states.COMPLETE,
                    value=value,
                    params={key: _to_optuna(domain, point[key]) for key, domain in domains.items()},
                    distributions=distributions,
                )
            )
        drawn = study.ask(distributions).params
        return {key: _from_optuna(domain, drawn[key]) for key, domain in domains.items()}


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
        return [json_text(each) for each in domain.values].index(json_text(value))
    return value.bit_length() - 1 if domain.kind == "pow2" else value

"""Sweeps that are planned, for tests: every run takes as long as is said."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.plan import estimate as estimate_module
from rt_scale.plan import plan as plan_module
from rt_scale.plan.costs import Price, PriceSheet
from rt_scale.plan.estimate import Estimate
from rt_scale.plan.plan import Conditions, Plan, make_plan
from rt_scale.scheduler.job import Job
from rt_scale.spec.grid import expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 2}}
HOUR = 3600.0


def sweeps(store: Store, *changes: dict[str, Any]) -> list[SweepRuns]:
    made = [
        SweepSpec.model_validate({"name": f"s{number}", "base": BASE, **change})
        for number, change in enumerate(changes)
    ]
    return [SweepRuns(sweep, expand(sweep), store) for sweep in made]


RESTART = {"base": {**BASE, "teacher": {"start_from": {"run": "same"}}}, "axes": {"student.alpha": [0.1, 0.5]}}
"""Two runs, each from a run of its own."""


def every_run_takes(monkeypatch: pytest.MonkeyPatch, seconds: float | None, best_size: int | None = None) -> None:
    """Every run takes so long, packed or not, with a checkpoint every ten minutes.

    Args:
        seconds: None: nobody knows.
        best_size: what ``pack: auto`` measured.
    """

    class Fixed:
        def __init__(self, measured: Any, known: Any, teraflops: float | None, steps: Any) -> None:
            self.how = f"fixed {teraflops}"

        def estimate(self, job: Job, together: int = 1) -> Estimate:
            return Estimate(seconds, seconds or 0.0, 600.0 * together, self.how)

        def best_size(self, job: Job) -> int | None:
            return best_size

    monkeypatch.setattr(estimate_module, "Estimator", Fixed)
    monkeypatch.setattr(plan_module, "START", 7.0)


def finish(store: Store, spec: RunSpec) -> None:
    run_dir = store.run(spec)
    with run_dir.acquire():
        run_dir.write_spec(spec)
        run_dir.complete(run_result(seconds=1.0))


def go(given: list[SweepRuns], **conditions: Any) -> Plan:
    return make_plan(given, given[0].store.root.parent / "data", Conditions(**conditions))


def sheet(*rows: dict[str, Any]) -> PriceSheet:
    usual = {"name": "a", "gpus": 0, "cpus": 2, "on_demand": 3.0, "spot": 1.0, "currency": "EUR"}
    known = {"date": "2026-02-03", "source": "a page"}
    return PriceSheet(prices=tuple(Price.model_validate({**usual, **known, **row}) for row in rows))

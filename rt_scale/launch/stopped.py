"""Runs that a sweep's scheduler ended early, kept in the sweep's folder: a second driver leaves them ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rt_scale.spec.explore import ExploreSpec
from rt_scale.store.atomic import read_json, write_json
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir

FILE = "stopped.json"


@dataclass(frozen=True)
class StoppedRun:
    """A run that was ended early.

    Attributes:
        step: optimiser steps that it had done.
        value: what it had reached in the metric.
        reason: why, for people.
    """

    step: int
    value: float
    reason: str


class StoppedRuns:
    """The runs of one sweep that were ended early by its present rule; one driver writes, trials read.

    Their directories stay partial, so that a sweep without the rule goes on with them. Under another metric, mode or
    rule none counts as ended.

    Args:
        explore: the sweep's section.
        folder: the sweep's folder in the store.
    """

    def __init__(self, explore: ExploreSpec, folder: Path) -> None:
        self.path = folder / FILE
        self._rule = explore.model_dump(mode="json", include={"metric", "mode", "stop"})

    def runs(self) -> dict[str, StoppedRun]:
        """Name of a run -> how it was ended, as the file now says."""
        try:
            found = read_json(self.path)
        except FileNotFoundError:
            return {}
        return {name: StoppedRun(**run) for name, run in found["runs"].items()} if found["rule"] == self._rule else {}

    def record(self, name: str, run: StoppedRun) -> None:
        """Add the run ``name``; runs of another rule are forgotten."""
        runs = {**self.runs(), name: run}
        write_json(self.path, {"rule": self._rule, "runs": {key: asdict(each) for key, each in runs.items()}})


class Watch:
    """A trial's side of early stopping: what it reports, and whether it was told to end.

    Give it to the run as ``Settings.stop``, add :meth:`report` to what the trial tells Tune, and call :meth:`look`
    after that: Tune's report returns when the scheduler has decided.

    Args:
        explore: the sweep's section, which has ``stop``.
        folder: the sweep's folder in the store.
        run: name of the run.

    Attributes:
        told: why the run is to end; empty while it is not.
    """

    def __init__(self, explore: ExploreSpec, folder: Path, run: str) -> None:
        self._explore, self._stopped = explore, StoppedRuns(explore, folder)
        self._sweep, self._run, self.told = folder.name, run, ""

    def __call__(self) -> bool:
        """Whether the run is to end now."""
        return bool(self.told)

    def report(self, step: int, steps: int, epoch: float, values: Mapping[str, float]) -> dict[str, Any]:
        """What to add to a report to Tune; nothing where the metric was not measured.

        Args:
            step: optimiser steps done.
            steps: of the whole run.
            epoch: passes over the training images done.
            values: what was logged.
        """
        value = values.get(self._explore.metric)
        if value is None or not math.isfinite(value):
            return {}
        time = time_of(self._explore, step, epoch)
        said = {"run": self._run, "step": step, "last": step >= steps, "time": time, "value": value}
        return {"explore": {"sweep": self._sweep, **said}}

    def look(self) -> None:
        """See what the scheduler made of the last report."""
        ended = self._stopped.runs().get(self._run)
        self.told = ended.reason if ended is not None else ""


def time_of(explore: ExploreSpec, step: int, epoch: float) -> float:
    """How far a run is, in the unit of the rule's grace: epochs or optimiser steps."""
    assert explore.stop is not None  # who asks has a rule
    return epoch if explore.stop.unit == "ep" else float(step)


def curve(explore: ExploreSpec, run: RunDir) -> list[tuple[float, float]]:
    """What the run's directory knows of the metric: time in the rule's unit, and value."""
    rows = read_metrics(run.metrics_path).to_pylist()
    return [
        (time_of(explore, row["step"], row["epoch"]), row["value"])
        for row in rows
        if row["name"] == explore.metric and math.isfinite(row["value"])
    ]

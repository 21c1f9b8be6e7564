"""Results and records of runs that nobody computed, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt_scale.spec.grid import Point
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import RunRecord, RunResult
from rt_scale.store.store import Store

DATA = {
    "name": "digits",
    "title": "Digits",
    "sha256": "824615432d4da1dde3ea1a684e00429410f04ba9e2f9ed3fcf7550a38f185c25",
}
EXECUTION = {"device": "cpu", "threads": 1, "cache_teacher": True, "channels_last": True, "loader": "resident"}


def run_result(last: Mapping[str, float] | None = None, **fields: Any) -> RunResult:
    """A result with those last values; ``fields`` as in ``result.json``."""
    given = {
        "name": "distill-0", "last": dict(last or {}), "best": {}, "steps": 1, "epochs": 1, "seconds": 1.0,
        "attempts": 1, "data": DATA,
    }  # fmt: skip
    return RunResult.model_validate(given | fields)


def run_record(*attempts: Mapping[str, Any], execution: Mapping[str, Any] | None = None, **fields: Any) -> RunRecord:
    """A record of those attempts; ``execution`` and ``fields`` as in ``environment.json``."""
    given = {"execution": EXECUTION | dict(execution or {}), "data": DATA, "attempts": list(attempts)}
    return RunRecord.model_validate(given | fields)


def finish_run(store: Store, place: Point, result: RunResult, *attempts: Mapping[str, Any]) -> None:
    """Make a run one that is finished, with a curve of the linear probe and the record of its attempts."""
    run_dir = store.run(place.spec)
    with run_dir.acquire():
        run_dir.write_spec(place.spec)
        run_dir.write_record(run_record(*attempts))
        table = MetricsTable(run_dir.metrics_path)
        for epoch, student in ((0, 0.2), (1, 0.4)):
            values = {"student": student, "teacher": 0.2, "input": 0.6}
            table.append(epoch, epoch, {f"probe/{role}/linear": value for role, value in values.items()})
        table.flush()
        run_dir.complete(result)

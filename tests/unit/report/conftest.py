"""Points and results of a sweep that was never run, and a store as if it had been."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rt_scale.spec.document import set_dotted
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from tests.records import run_record, run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


@pytest.fixture
def point() -> Callable[..., Point]:
    """A point of a sweep over dotted fields."""

    def make(values: Mapping[str, Any], seed: int = 0) -> Point:
        document = {**BASE, "seeds": dict.fromkeys(("teacher", "student", "data", "probe"), seed)}
        for key, value in values.items():
            document = set_dotted(document, key, value)
        return Point(dict(values), seed, RunSpec.model_validate(document))

    return make


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """A ``result.json`` with the accuracies of one or more probes."""

    def make(
        student: float, teacher: float, pixels: float, best: float | None = None, probe: str = "linear"
    ) -> RunResult:
        names = {"student": student, "teacher": teacher, "input": pixels}
        return run_result(
            {f"probe/{role}/{probe}": value for role, value in names.items()},
            best={f"probe/student/{probe}": {"value": student if best is None else best, "epoch": 1, "step": 2}},
        )

    return make


@pytest.fixture
def finish() -> Callable[..., None]:
    """Makes a run one that is finished, with a curve of the linear probe and the record of its attempts."""

    def write(store: Store, place: Point, result: RunResult, *attempts: Mapping[str, Any]) -> None:
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

    return write

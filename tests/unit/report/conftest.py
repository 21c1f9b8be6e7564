"""Points and results of a sweep that was never run, and a store as if it had been."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rt_scale.spec.document import set_dotted
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import RunResult
from tests.records import finish_run, run_result

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

    return finish_run

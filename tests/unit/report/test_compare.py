from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.report.compare import compare_specs, short_names
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, single_runs

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


def runs(folder: Path, *alphas: float) -> SweepRuns:
    specs = [RunSpec.model_validate({**BASE, "student": {"alpha": alpha}}) for alpha in alphas]
    return single_runs(specs, Store(folder))


def test_a_column_a_run_and_a_row_a_field_that_differs(tmp_path: Path) -> None:
    found = compare_specs([runs(tmp_path, 0.5, 1), runs(tmp_path, 1, 0.25)])
    names = list(found.specs)
    assert found.fields == {"student.alpha": [0.5, 1.0, 0.25]}
    titles, rows = found.table()
    assert rows == [("student.alpha", "0.5", "1", "0.25")]
    assert titles == ["field", *short_names(names)]
    assert found.to_json() == {
        "runs": names, "differences": {"student.alpha": dict(zip(names, [0.5, 1.0, 0.25], strict=True))}, "notes": [],
    }  # fmt: skip


def test_of_many_runs_the_distinct_values_are_shown(tmp_path: Path) -> None:
    titles, rows = compare_specs([runs(tmp_path, *(number / 10 for number in range(8)))]).table()
    assert titles == ["field", "values"]
    assert rows == [("student.alpha", "0, 0.1, 0.2, ... (2 more) ..., 0.5, 0.6, 0.7")]


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Name two runs or more"):
        compare_specs([runs(tmp_path, 0.5), runs(tmp_path, 0.5)])


def test_names_are_as_short_as_they_differ() -> None:
    assert short_names(["distill-0123456789abcdef", "supervise-0123456789abcdef"]) == [
        "distill-012345", "supervise-012345"
    ]  # fmt: skip
    assert short_names(["distill-0123456789abcdef", "distill-0123457789abcdef"]) == [
        "distill-0123456", "distill-0123457"
    ]  # fmt: skip

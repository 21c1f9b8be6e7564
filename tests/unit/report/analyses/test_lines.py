"""Lines and planes of other directions in a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rt_scale.report.analyses.base import Asked
from rt_scale.report.analyses.landscapes import analysis, landscape_runs
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from tests.unit.report.analyses.planes import line_arrays, npz, plane_arrays

RUN = {"kind": "distill", "data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
BASE: dict[str, Any] = {"kind": "landscape", "origin": {"run": RUN, "take": "teacher"}}
LINE = BASE | {"x": {"run": RUN}, "points": [21]}
RANDOM = BASE | {"directions": "random", "points": [9, 7]}


def asked(tmp_path: Path, base: dict[str, Any], name: str, arrays: dict[str, Any]) -> Asked:
    points = expand(SweepSpec.model_validate({"name": "s", "base": base, "seeds": 2}))
    store = Store(tmp_path / "store")
    run = store.run(points[0].spec)
    with run.acquire():
        run.write_spec(points[0].spec)
        run.save_artifact(name, npz(arrays))
    states = {point.spec.name: store.status(point.spec.name).state for point in points}
    return Asked(points, {}, states, store, tmp_path / "report", "last", None)


def test_lines_are_means_over_seeds(tmp_path: Path) -> None:
    points = expand(SweepSpec.model_validate({"name": "lines", "base": LINE, "seeds": 3}))
    store = Store(tmp_path / "store")
    for point in points:
        arrays, run = line_arrays(), store.run(point.spec)
        arrays["linear"][-1] = np.nan  # not computed yet
        with run.acquire():
            run.write_spec(point.spec)
            run.save_artifact("line.npz", npz(arrays))
    states = {point.spec.name: "running" for point in points}
    found = analysis(Asked(points, {}, states, store, tmp_path / "report", "last", None))
    assert [picture.name for picture in found.pictures] == ["lines"]
    assert found.views == []
    drawn = found.pictures[0].svg.read_text()
    assert all(word in drawn for word in ("log10 KL to origin", "linear probe (%)", "teacher, student, alpha 0"))
    assert "norm" not in drawn
    assert {row[2] for row in found.tables[0].rows[1:]} == {"student, alpha 0"}


def test_no_line_yet(tmp_path: Path) -> None:
    found = analysis(asked(tmp_path, LINE, "other.npz", {"x": np.zeros(1)}))
    assert found.pictures == ()
    assert "No point" in found.said[0]


def test_planes_of_random_directions_are_drawn(tmp_path: Path) -> None:
    given = asked(tmp_path, RANDOM, "plane.npz", plane_arrays(width=9, height=7))
    run = landscape_runs(given)[0]
    assert run.at["view"] == "teacher, random directions"
    assert run.found is not None
    assert run.found.students == {}
    found = analysis(given)
    assert len(found.pictures) == 3
    assert len(found.views) == 1

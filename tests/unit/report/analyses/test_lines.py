"""Lines and planes of other directions in a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rt_scale.report.analyses.base import Asked
from rt_scale.report.analyses.landscapes import analysis, landscape_runs
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from tests.unit.report.analyses.planes import npz, plane_arrays

RUN = {"kind": "distill", "data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
BASE: dict[str, Any] = {"kind": "landscape", "origin": {"run": RUN, "take": "teacher"}}
LINE = BASE | {"x": {"run": RUN}, "points": [5]}
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


def test_lines_are_drawn(tmp_path: Path) -> None:
    x = np.linspace(-0.5, 1.5, 5)
    line = {"x": x, "kl_train": np.where(x < 1, x**2, np.nan), "linear": 0.3 + x / 10, "gram": np.eye(2)}
    found = analysis(asked(tmp_path, LINE, "line.npz", line))
    (picture,) = found.pictures
    text = picture.svg.read_text()
    assert "kl train (nats)" in text
    assert "linear (%)" in text
    assert "entropy" not in text
    with Image.open(picture.png) as image:
        assert image.width > 500
    assert not found.said


def test_no_line_yet(tmp_path: Path) -> None:
    found = analysis(asked(tmp_path, LINE, "other.npz", {"x": np.zeros(1)}))
    assert found.pictures == []
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

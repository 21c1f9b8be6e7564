"""Layers in a report: a picture a configuration, and three moments in a table, of runs that were really executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.api import load, run
from rt_scale.report.analyses.base import Asked
from rt_scale.report.analyses.layers import analysis, moments
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from tests.unit.api.conftest import TINY


def asked(points: list[Point], store: Store, tmp_path: Path) -> Asked:
    found = {point.spec.name: store.run(point.spec).result() for point in points}
    results = {name: result for name, result in found.items() if result is not None}
    states = {name: "done" if name in results else "missing" for name in found}
    return Asked(points, results, states, store, tmp_path / "report", "last")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Point], Store]:
    """Two seeds of two encoders, the last one missing."""
    folder = tmp_path_factory.mktemp("layers")
    probe = {**TINY["probe"], "layers": {"images": 20}}
    file = {"name": "deep", "base": {**TINY, "probe": probe}, "seeds": 2, "axes": {"encoder.norm": ["batch", "none"]}}
    points = expand(SweepSpec.model_validate(file))
    for point in points[:-1]:
        run(point.spec, store=folder / "store", data_dir=folder / "data", device="cpu", progress=False)
    return points, Store(folder / "store")


def test_each_configuration_has_a_picture_and_each_layer_a_row(
    executed: tuple[list[Point], Store], tmp_path: Path
) -> None:
    points, store = executed
    found = analysis(asked(points, store, tmp_path))
    assert found is not None
    assert found.said[0].startswith("3 of 4 runs done")
    assert [picture.name for picture in found.pictures] == ["layers-1", "layers-2"]
    first, second = (picture.svg.read_text() for picture in found.pictures)
    for words in ("mean cosine of two", "effective rank", "layer = 1", "layer = embedding", "input", "norm batch"):
        assert words in first
    assert "norm none" in second
    assert found.pictures[0].title.endswith("over 2 seeds.")
    (table,) = found.tables
    assert [row[:2] for row in table.rows[1:]] == [
        ["norm batch", "1"], ["norm batch", "embedding"], ["norm none", "1"], ["norm none", "embedding"],
    ]  # fmt: skip
    results = [store.run(point.spec).result() for point in points if point.values["encoder.norm"] == "batch"]
    ends = [result.last["layers/student/effective_rank_01"] for result in results if result is not None]
    assert table.rows[1][3].split(", ")[2] == f"{sum(ends) / 2:.3g}"


def test_the_middle_moment_is_where_embeddings_are_most_alike() -> None:
    curve = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    alike = [(0.0, 0.5), (1.0, 0.9), (2.0, 0.7)]
    others = {name: {"01": curve, "embedding": curve} for name in ("effective_rank", "log_condition", "separability")}
    rows = moments({"cosine": {"01": curve, "embedding": alike}, **others})
    assert rows == [["1", *["1, 2, 3"] * 4], ["embedding", "0.5, 0.9, 0.7", *["1, 2, 3"] * 3]]


def test_runs_without_measured_layers_have_none(executed: tuple[list[Point], Store], tmp_path: Path) -> None:
    points, store = executed
    assert analysis(asked(points[-1:], store, tmp_path)) is None  # not finished
    plain = Point({}, 0, load(TINY))
    assert analysis(asked([plain], store, tmp_path)) is None

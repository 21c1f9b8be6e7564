"""Axes in exported tables: their types, and what they are where several sweeps share a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rt_scale.report.export import export
from rt_scale.spec.grid import Point
from rt_scale.store.store import Store

Make = Callable[..., Point]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("key", "values", "kind", "shown"),
    [
        ("projector.out_dim", [16, 64], pa.int64(), [16, 64]),
        ("student.alpha", [0.5, 1], pa.float64(), [0.5, 1.0]),
        ("encoder.norm", ["none", "batch"], pa.string(), ["none", "batch"]),
        ("probe.linear", [True, False], pa.bool_(), [True, False]),
        ("data.samples", [None, 100], pa.int64(), [None, 100]),
        ("probe.every", [None, "2ep"], pa.string(), [None, "2ep"]),
        ("projector.hidden", [[16], [16, 32]], pa.string(), ["[16]", "[16, 32]"]),
        ("seeds.data", [1, 2], pa.int64(), [1, 2]),
        ("seeds.data", [1, 2**70], pa.string(), ["1", str(2**70)]),
    ],
)
def test_axes_are_typed(
    store: Store, point: Make, tmp_path: Path, key: str, values: list[Any], kind: pa.DataType, shown: list[Any]
) -> None:
    points = [point({key: value}) for value in values]
    with store.run(points[0].spec).acquire():
        pass
    written = export([("demo", points)], store, tmp_path, "parquet")
    column = pq.read_table(written["runs"].path)[key]
    assert (column.type, column.to_pylist()) == (kind, shown)
    assert pq.read_schema(written["curves"].path).field(key).type == kind


def test_sweeps_share_one_pair_of_tables(store: Store, point: Make, tmp_path: Path) -> None:
    """An axis of one sweep has its value in the runs of the other, and a run of both is one row."""
    runs = [point({"student.alpha": alpha, "projector.out_dim": 16}, seed=3) for alpha in (0.5, 1, 0)]
    with store.run(runs[0].spec).acquire():
        pass
    other = [point({"encoder.norm": "batch"}), point({"student.alpha": 0.5, "projector.out_dim": 16}, seed=3)]
    written = export([("demo", runs), ("norms", other)], store, tmp_path, "parquet")
    rows = pq.read_table(written["runs"].path).to_pylist()
    assert [(row["sweep"], row["encoder.norm"], row["student.alpha"], row["projector.out_dim"]) for row in rows] == [
        ("demo, norms", "none", 0.5, 16),
        ("demo", "none", 1.0, 16),
        ("demo", "none", 0.0, 16),
        ("norms", "batch", other[0].spec.student.alpha, other[0].spec.projector.out_dim),
    ]


def test_an_axis_that_the_other_sweep_has_no_field_for_is_empty_there(
    store: Store, point: Make, tmp_path: Path
) -> None:
    plain = point({})
    start = {"take": "init", "run": plain.spec.model_dump(mode="json")}
    starting = Point({"teacher.start_from.take": "init"}, 0, point({"teacher.start_from": start}).spec)
    with store.run(plain.spec).acquire():
        pass
    written = export([("a", [plain]), ("b", [starting])], store, tmp_path, "parquet")
    rows = pq.read_table(written["runs"].path).to_pylist()
    assert [row["teacher.start_from.take"] for row in rows] == [None, "init"]


def test_a_run_to_start_from_is_told_by_its_name(store: Store, point: Make, tmp_path: Path) -> None:
    first = point({"student.alpha": 0.5})
    start = {"take": "init", "run": first.spec.model_dump(mode="json")}
    with store.run(first.spec).acquire():
        pass
    points = [point({"teacher.start_from": None}), point({"teacher.start_from": start})]
    written = export([("a", points), ("b", [first])], store, tmp_path, "parquet")
    rows = [{key: value for key, value in row.items() if "start_from" in key}
            for row in pq.read_table(written["runs"].path).to_pylist()]  # fmt: skip
    none = {"teacher.start_from.run": None, "teacher.start_from.take": None, "teacher.start_from.part": None}
    told = {"run": first.spec.name, "take": "init", "part": "network"}
    assert rows == [none, {f"teacher.start_from.{key}": value for key, value in told.items()}, none]

"""Exported tables: read back from their files, every column of them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from rt_scale.report import export as exporting
from rt_scale.report.export import STATE, Exported, export
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import DATA, run_record, run_result

Make = Callable[..., Point]


def of(name: str, points: list[Point], store: Store) -> SweepRuns:
    return SweepRuns(SweepSpec(name=name, base={}), points, store)


SEEDS = ["seed", "seeds.teacher", "seeds.student", "seeds.data", "seeds.order", "seeds.probe"]
START = 1_700_000_000.25
ATTEMPT = {"time": START, "host": "old", "device": "cpu", "versions": {"torch": "2.11", "rt-scale": "0.1"}}
NEWEST = {
    **ATTEMPT, "time": START + 9, "host": "new", "device": "NVIDIA H200", "git_commit": "abc123", "workers": 2,
    "gpu": {"driver": "570.1"}, "cpu": {"model": "AMD EPYC", "cores": 2},
}  # fmt: skip
RESULT: dict[str, Any] = {
    "last": {"probe/student/knn": 0.25, "train/loss": 2.5},
    "best": {"probe/student/knn": {"value": 0.5, "epoch": 1.5, "step": 3}},
    "steps": 4, "epochs": 2, "seconds": 12.5, "device_seconds": {"gpu": 25.0, "cpu": 1.5},
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def points(point: Make) -> list[Point]:
    return [point({"student.alpha": alpha, "projector.out_dim": 16}, seed=3) for alpha in (0.5, 1, 0)]


@pytest.fixture
def runs(store: Store, points: list[Point]) -> list[Point]:
    """One run that is done, one that failed, one that was never begun."""
    done, failed = store.run(points[0].spec), store.run(points[1].spec)
    with done.acquire():
        done.write_spec(points[0].spec)
        done.write_record(run_record(ATTEMPT, NEWEST, data={**DATA, "sha256": "ab12"}))
        measure(store, points[0])
        done.complete(run_result(**RESULT))
    with failed.acquire():
        failed.write_spec(points[1].spec)
        failed.write_record(run_record(ATTEMPT))
        failed.fail({"reason": 'The loss is nan, "so"\nit ends.', "time": START + 7})
    return points


def measure(store: Store, point: Point) -> None:
    table = MetricsTable(store.run(point.spec).metrics_path)
    table.append(0, 0.0, {"probe/student/knn": 0.125})
    table.append(4, 2.0, {"probe/student/knn": 0.25, "train/loss": 2.5})
    table.flush()


def read(written: Exported, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """The rows of a file, with the types of ``schema`` where it has none itself."""
    if written.path.suffix == ".parquet":
        table = pq.read_table(written.path)
    else:
        options = pacsv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        )
        parsing = pacsv.ParseOptions(newlines_in_values=True)
        table = pacsv.read_csv(written.path, convert_options=options, parse_options=parsing)
    assert len(table) == written.rows
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def test_one_row_a_run_with_all_that_is_known_of_it(store: Store, runs: list[Point], tmp_path: Path) -> None:
    written = export([of("demo", runs, store)], tmp_path / "new" / "out", "parquet")
    assert {name: table.path for name, table in written.items()} == {
        "runs": tmp_path / "new" / "out" / "runs.parquet",
        "curves": tmp_path / "new" / "out" / "curves.parquet",
    }
    done, failed, missing = read(written["runs"])
    last, best = (
        ["last/probe/student/knn", "last/train/loss"],
        ["best/probe/student/knn", "best_epoch/probe/student/knn"],
    )
    axes = ["student.alpha", "projector.out_dim"]
    assert list(done) == ["sweep", "run", "label", *axes, *SEEDS, *STATE, *last, *best]
    assert done == {
        "sweep": "demo",
        "run": runs[0].spec.name,
        "label": runs[0].label,
        "student.alpha": 0.5,
        "projector.out_dim": 16,
        **dict.fromkeys(SEEDS, 3),
        "data": "digits",
        "data_title": "Digits",
        "data_sha256": "ab12",
        "same_data_here": None,
        "status": "done",
        "reason": None,
        "attempts": 1,
        **{name: RESULT[name] for name in ("steps", "epochs", "seconds")},
        "device_seconds/gpu": 25.0,
        "device_seconds/cpu": 1.5,
        "started": utc(START),
        "finished": done["finished"],
        "device": "NVIDIA H200",
        "driver": "570.1",
        "cpu": "AMD EPYC",
        "workers": 2,
        "host": "new",
        "torch": "2.11",
        "rt-scale": "0.1",
        "git_commit": "abc123",
        **dict(zip([*last, *best], [0.25, 2.5, 0.5, 1.5], strict=True)),
    }
    newest = MetricsTable(tmp_path, store.run(runs[0].spec).metrics_path.read_bytes())._rows[-1][-1]
    assert abs(done["finished"] - utc(newest)) <= datetime.timedelta(
        microseconds=1
    )  # each rounds a float in its own way
    assert (failed["status"], failed["reason"]) == ("failed", 'The loss is nan, "so"\nit ends.')
    assert (failed["started"], failed["finished"], failed["host"]) == (utc(START), utc(START + 7), "old")
    assert (missing["data"], missing["data_title"], missing["data_sha256"]) == ("digits", "Digits", None)
    lacking = ("seconds", "device_seconds/gpu", "device_seconds/cpu", "driver", "cpu", "workers", "git_commit")
    assert {failed[name] for name in (*lacking, *last, *best)} == {None}
    assert (missing["status"], missing["attempts"], missing["student.alpha"]) == ("missing", 0, 0.0)
    assert {missing[name] for name in ("reason", "started", "finished", "device", *last, *best)} == {None}


def test_one_row_a_measured_value(store: Store, runs: list[Point], tmp_path: Path) -> None:
    measure(store, runs[1])
    rows = read(export([of("demo", runs, store)], tmp_path, "parquet")["curves"])
    assert [row["run"] for row in rows] == [runs[0].spec.name] * 3 + [runs[1].spec.name] * 3
    first = rows[0]
    assert {name: value for name, value in first.items() if name != "time"} == {
        "run": runs[0].spec.name,
        "label": runs[0].label,
        "student.alpha": 0.5,
        "projector.out_dim": 16,
        **dict.fromkeys(SEEDS, 3),
        "step": 0,
        "epoch": 0.0,
        "metric": "probe/student/knn",
        "value": 0.125,
    }
    assert list(first)[-1] == "time"
    assert abs(first["time"] - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(hours=1)
    assert [(row["step"], row["metric"], row["value"]) for row in rows[1:3]] == [
        (4, "probe/student/knn", 0.25),
        (4, "train/loss", 2.5),
    ]


def test_both_forms_hold_the_same(store: Store, runs: list[Point], tmp_path: Path) -> None:
    parquet = export([of("demo", runs, store)], tmp_path, "parquet")
    csv = export([of("demo", runs, store)], tmp_path, "csv")
    for name in ("runs", "curves"):
        assert csv[name].path == tmp_path / f"{name}.csv"
        assert read(csv[name], pq.read_schema(parquet[name].path)) == read(parquet[name])
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "curves.csv", "curves.parquet", "runs.csv", "runs.parquet"
    ]  # fmt: skip


def test_metrics_are_read_and_written_run_by_run(
    store: Store, runs: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is on its way to the file before the next is read, and the result is the same."""
    measure(store, runs[1])
    whole = read(export([of("demo", runs, store)], tmp_path, "parquet")["curves"])
    monkeypatch.setattr(exporting, "BATCH", 2)
    monkeypatch.setattr(exporting, "_RUNS", 1)
    written = export([of("demo", runs, store)], tmp_path, "parquet")
    assert read(written["curves"]) == whole
    assert pq.ParquetFile(written["curves"].path).num_row_groups == 2
    assert [row["status"] for row in read(written["runs"])] == ["done", "failed", "missing"]


def test_metrics_of_some_runs_alone_stand_with_their_like(store: Store, runs: list[Point], tmp_path: Path) -> None:
    late = store.run(runs[2].spec)
    with late.acquire():
        late.write_spec(runs[2].spec)
        best = {"test/accuracy": {"value": 1.0, "epoch": 1, "step": 2}}
        late.complete(run_result({"test/accuracy": 0.75}, best=best))
    rows = read(export([of("demo", runs, store)], tmp_path, "parquet")["runs"])
    assert list(rows[0])[-7:] == [
        *("last/probe/student/knn", "last/train/loss", "last/test/accuracy"),
        *("best/probe/student/knn", "best/test/accuracy"),
        *("best_epoch/probe/student/knn", "best_epoch/test/accuracy"),
    ]
    assert [row["last/test/accuracy"] for row in rows] == [None, None, 0.75]
    assert rows[2]["finished"] is None  # it measured nothing


def test_a_failed_export_leaves_the_earlier_one(store: Store, runs: list[Point], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export([of("demo", runs, store)], out, "csv")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    store.run(runs[1].spec).metrics_path.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"metrics in .* cannot be read"):
        export([of("demo", runs, store)], out, "csv")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_cannot_be_exported_is_said(store: Store, points: list[Point], runs: list[Point], tmp_path: Path) -> None:
    empty = Store(tmp_path / "other")
    with pytest.raises(InputError, match=r"None of the 3 runs of 'demo' was begun in '.*other'.*--store"):
        export([of("demo", points, empty)], tmp_path, "csv")
    assert not list(tmp_path.glob("*.csv"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export([of("demo", runs, store)], tmp_path / "file", "csv")


def test_json_of_a_run_without_an_environment_is_no_obstacle(store: Store, point: Make, tmp_path: Path) -> None:
    """Killed between its lease and its environment."""
    only = point({"student.alpha": 0.5})
    with store.run(only.spec).acquire():
        store.run(only.spec).path.joinpath("spec.json").write_text(json.dumps(only.spec.canonical()))
    (row,) = read(export([of("demo", [only], store)], tmp_path, "parquet")["runs"])
    assert (row["status"], row["attempts"], row["host"], row["started"]) == ("partial", 1, None, None)


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
    written = export([of("demo", points, store)], tmp_path, "parquet")
    column = pq.read_table(written["runs"].path)[key]
    assert (column.type, column.to_pylist()) == (kind, shown)
    assert pq.read_schema(written["curves"].path).field(key).type == kind


def test_sweeps_share_one_pair_of_tables(store: Store, point: Make, tmp_path: Path) -> None:
    """An axis of one sweep has its value in the runs of the other, and a run of both is one row."""
    runs = [point({"student.alpha": alpha, "projector.out_dim": 16}, seed=3) for alpha in (0.5, 1, 0)]
    with store.run(runs[0].spec).acquire():
        pass
    other = [point({"encoder.norm": "batch"}), point({"student.alpha": 0.5, "projector.out_dim": 16}, seed=3)]
    written = export([of("demo", runs, store), of("norms", other, store)], tmp_path, "parquet")
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
    written = export([of("a", [plain], store), of("b", [starting], store)], tmp_path, "parquet")
    rows = pq.read_table(written["runs"].path).to_pylist()
    assert [row["teacher.start_from.take"] for row in rows] == [None, "init"]


def test_a_run_to_start_from_is_told_by_its_name(store: Store, point: Make, tmp_path: Path) -> None:
    first = point({"student.alpha": 0.5})
    start = {"take": "init", "run": first.spec.model_dump(mode="json")}
    with store.run(first.spec).acquire():
        pass
    points = [point({"teacher.start_from": None}), point({"teacher.start_from": start})]
    written = export([of("a", points, store), of("b", [first], store)], tmp_path, "parquet")
    rows = [{key: value for key, value in row.items() if "start_from" in key}
            for row in pq.read_table(written["runs"].path).to_pylist()]  # fmt: skip
    none = {"teacher.start_from.run": None, "teacher.start_from.take": None, "teacher.start_from.part": None}
    told = {"run": first.spec.name, "take": "init", "part": "network"}
    assert rows == [none, {f"teacher.start_from.{key}": value for key, value in told.items()}, none]

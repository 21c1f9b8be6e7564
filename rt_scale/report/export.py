"""Tables as CSV or Parquet: the runs and curves of sweeps, and the numbers and verdicts of reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.page import Report
from rt_scale.report.paper_numbers import data_title
from rt_scale.report.results import ResultRow
from rt_scale.report.statistics import ROLES
from rt_scale.report.status import STYLES
from rt_scale.spec.differences import spec_fields
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.networks import StudentSpec, TeacherSpec
from rt_scale.spec.run import RunSpec
from rt_scale.store.atomic import replacing
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import AttemptRecord, RunResult
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.tensorboard.settings import Setting, flat_settings, typed_columns

Form = Literal["csv", "parquet"]
BATCH = 2**16
"""Rows to gather before a write, which makes one row group of a Parquet file."""
TIME = pa.timestamp("us", tz="UTC")
STATE = {
    "data": pa.string(),
    "data_title": pa.string(),
    "data_sha256": pa.string(),
    "same_data_here": pa.bool_(),
    "status": pa.string(),
    "reason": pa.string(),
    "attempts": pa.int64(),
    "steps": pa.int64(),
    "epochs": pa.float64(),
    "seconds": pa.float64(),
    "device_seconds/gpu": pa.float64(),
    "device_seconds/cpu": pa.float64(),
    "started": TIME,
    "finished": TIME,
    "device": pa.string(),
    "driver": pa.string(),
    "cpu": pa.string(),
    "workers": pa.int64(),
    "host": pa.string(),
    "torch": pa.string(),
    "rt-scale": pa.string(),
    "git_commit": pa.string(),
}
"""Columns on a run and its state. data: the set that it is distilled on, its title with the variant, and its content;
same_data_here: whether all its sets have the same contents here, null if they are not here or it has not begun; reason:
of the newest failure; device_seconds: GPUs or CPU cores times seconds held; started: of the first attempt; finished:
time of its last measurement or failure; device to git_commit: of its newest attempt."""
_MEASURED = {"step": pa.int64(), "epoch": pa.float64(), "metric": pa.string(), "value": pa.float64(), "time": TIME}
_STARTS = ("teacher.start_from", "student.start_from")
_RUNS = 1000
"""Runs that are converted to columns at a time."""


@dataclass(frozen=True)
class Exported:
    """A written table."""

    path: Path
    rows: int


@dataclass(frozen=True)
class ExportedRun:
    """A run of ``sweeps``, by name; ``shared`` holds its axes and seeds (column -> value, of one type per column)."""

    sweeps: Sequence[str]
    point: Point
    shared: dict[str, Setting | None]

    @property
    def identity(self) -> dict[str, object]:
        """The columns with which each of its rows begins."""
        return {"run": self.point.spec.name, "label": self.point.label, **self.shared}


def export(sweeps: Sequence[SweepRuns], folder: Path, form: Form, here: DataHere | None = None) -> dict[str, Exported]:
    """Write the tables ``runs`` and ``curves`` of sweeps of one store from their run directories.

    ``runs`` has a row for every run, also for those without a result or never begun; ``curves`` one for every measured
    value. Memory stays bounded: one run's metrics and fewer than 65,536 other rows are held. With ``here``, the data of
    runs is compared with the local data sets.

    Raises:
        InputError: if no run was begun, or the folder cannot be written.
        RunError: if a file of a run is damaged, or the disk is full.
    """
    store, runs = sweeps[0].store, merge(sweeps)
    _refuse_where_none_was_begun(runs, store)
    types = _identity_types(runs)
    tables: list[pa.Table] = []

    def curves() -> Iterator[pa.Table]:
        """The curves run by run; also fills ``tables`` with the rows of ``runs``."""
        rows: list[dict[str, object]] = []
        for run in runs:
            metrics = read_metrics(store.run(run.point.spec).metrics_path)
            yield _curves(run, metrics, types)
            rows.append(_run_row(run, store, metrics, here))
            if len(rows) == _RUNS or run is runs[-1]:
                tables.append(_to_table(rows, types))
                rows = []

    written = write_table(folder / f"curves.{form}", form, pa.schema({**types, **_MEASURED}), curves())
    return {"runs": _write_runs(tables, folder / f"runs.{form}", form), "curves": written}


def runs_table(sweeps: Sequence[SweepRuns], here: DataHere | None = None) -> pa.Table:
    """The table ``runs`` of :func:`export` in memory, also of sweeps of which no run was begun."""
    store, runs = sweeps[0].store, merge(sweeps)
    rows = [_run_row(run, store, read_metrics(store.run(run.point.spec).metrics_path), here) for run in runs]
    table = _to_table(rows, _identity_types(runs))
    return table.select(sorted(table.column_names, key=_place))


def _identity_types(runs: Sequence[ExportedRun]) -> dict[str, pa.DataType]:
    shared = dict.fromkeys(key for run in runs for key in run.shared)
    axes = {key: _arrow_type(run.shared[key] for run in runs) for key in shared}
    return {"run": pa.string(), "label": pa.string(), **axes}


def _run_row(run: ExportedRun, store: Store, metrics: pa.Table, here: DataHere | None) -> dict[str, object]:
    """A row of the table ``runs``."""
    state = _state(run.point.spec, store.run(run.point.spec), store, metrics, here)
    return {"sweep": ", ".join(run.sweeps), **run.identity, **state}


def _refuse_where_none_was_begun(runs: Sequence[ExportedRun], store: Store) -> None:
    if all(store.status(run.point.spec.name).state == "missing" for run in runs):
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(name for run in runs for name in run.sweeps))
        raise InputError(
            f"None of the {len(runs)} runs of {names} was begun in '{store.place}'. Run them with 'rt-scale sweep', "
            "or name the store with --store."
        )


def merge(sweeps: Sequence[SweepRuns]) -> list[ExportedRun]:
    """The distinct runs, with the axes of all sweeps."""
    points: dict[str, Point] = {}
    members: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for point in sweep.points:
            points.setdefault(point.spec.name, point)
            members.setdefault(point.spec.name, {})[sweep.name] = None
    axes = list(dict.fromkeys(key for point in points.values() for key in point.values))
    columns = typed_columns([_settings(point, axes) for point in points.values()])
    return [
        ExportedRun(list(members[name]), point, {key: column[number] for key, column in columns.items()})
        for number, (name, point) in enumerate(points.items())
    ]


def _settings(point: Point, axes: Iterable[str]) -> dict[str, Setting]:
    """The values of all axes, also of those that only other sweeps vary, and the seeds."""
    fields = spec_fields(point.spec.fields)
    values = {key: _value(point, key, fields) for key in axes}
    named = {**point.spec.seeds.model_dump(), "order": point.spec.seeds.ordering}
    seeds = {f"seeds.{name}": value for name, value in named.items()}
    flat = flat_settings({**values, "seed": point.seed, **seeds})
    return {key: str(value) if type(value) is int and abs(value) >= 2**63 else value for key, value in flat.items()}


def _value(point: Point, key: str, fields: Mapping[str, object]) -> object:
    """The value of an axis; a run to start from is given by name, as in the column ``run``."""
    if key in _STARTS:
        part: TeacherSpec | StudentSpec = getattr(point.spec, key.partition(".")[0])
        return part.start_from and {**part.start_from.model_dump(), "run": part.start_from.run.name}
    return point.values[key] if key in point.values else fields.get(key)


def _arrow_type(values: Iterable[Setting | None]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pa.float64() if float in kinds else pa.int64()
    return pa.bool_() if kinds == {bool} else pa.string()


def _curves(run: ExportedRun, metrics: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    identity = run.identity
    repeated = [pa.repeat(pa.scalar(identity[name], kind), len(metrics)) for name, kind in types.items()]
    time = pc.round(pc.multiply(metrics["time"], 1e6)).cast(pa.int64()).cast(TIME)
    measured = [*(metrics[name] for name in ("step", "epoch", "name", "value")), time]
    return pa.table([*repeated, *measured], pa.schema({**types, **_MEASURED}))


def _state(spec: RunSpec, run_dir: RunDir, store: Store, metrics: pa.Table, here: DataHere | None) -> dict[str, object]:
    status = store.status(run_dir.name)
    result = run_dir.result() if status.state == "done" else None
    failure = (run_dir.failure() if status.state == "failed" else None) or {}
    record = run_dir.record()
    data, attempts = (record.data, record.attempts) if record else (None, [])
    newest = attempts[-1] if attempts else AttemptRecord()
    # By the clock of the machine that computed it: the date of result.json changes when a store is copied.
    measured = metrics["time"][-1].as_py() if result and len(metrics) else None
    return {
        "data": spec.main_set or None,
        "data_title": data_title(spec.main_set, data.title if data else "") if spec.main_set else None,
        "data_sha256": data.sha256 if data else None,
        "same_data_here": here.same(spec.name, data) if here is not None and data else None,
        "status": status.state,
        "reason": failure.get("reason"),
        "attempts": status.attempts,
        "started": _microseconds(attempts[0].time if attempts else None),
        "finished": _microseconds(measured or failure.get("time")),
        "device": newest.device,
        "driver": newest.gpu.driver if newest.gpu else None,
        "cpu": newest.cpu.model,
        "workers": newest.workers,
        "host": newest.host,
        "torch": newest.versions.get("torch"),
        "rt-scale": newest.versions.get("rt-scale"),
        "git_commit": newest.git_commit,
        **({} if result is None else result_numbers(result)),
    }


def result_numbers(result: RunResult) -> dict[str, float]:
    """The numbers of a result: last/NAME, best/NAME, best_epoch/NAME, device_seconds/KIND, steps, epochs, seconds."""
    return {
        "steps": result.steps,
        "epochs": result.epochs,
        "seconds": result.seconds,
        **{f"device_seconds/{kind}": value for kind, value in result.device_seconds.items()},
        **{f"last/{name}": value for name, value in result.last.items()},
        **{f"best/{name}": best.value for name, best in result.best.items()},
        **{f"best_epoch/{name}": best.epoch for name, best in result.best.items()},
    }


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _to_table(rows: Sequence[Mapping[str, object]], identity: Mapping[str, pa.DataType]) -> pa.Table:
    types = {"sweep": pa.string(), **identity, **STATE}
    names = dict.fromkeys([*types, *(name for row in rows for name in row)])
    return pa.table({name: pa.array([row.get(name) for row in rows], types.get(name, pa.float64())) for name in names})


def _write_runs(tables: Sequence[pa.Table], path: Path, form: Form) -> Exported:
    table = pa.concat_tables(tables, promote_options="default")
    # The identity comes first, metrics last, whatever run had them first.
    table = table.select(sorted(table.column_names, key=_place))
    return write_table(path, form, table.schema, [table])


def _place(column: str) -> int:
    starts = ("last/", "best/", "best_epoch/")
    return next((place for place, start in enumerate(starts, 1) if column.startswith(start)), 0)


def write_table(path: Path, form: Form, schema: pa.Schema, pieces: Iterable[pa.Table]) -> Exported:
    """Write a table atomically, replacing a file of that name.

    Small pieces are merged up to :data:`BATCH` rows, so that there are few row groups.
    """
    rows, waiting = 0, []
    with replacing(path) as file, _writer(file, form, schema) as writer:
        for piece in filter(len, pieces):
            rows += len(piece)
            waiting.append(piece)
            if sum(map(len, waiting)) >= BATCH:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    return Exported(path, rows)


def _writer(file: BinaryIO, form: Form, schema: pa.Schema) -> pq.ParquetWriter | pacsv.CSVWriter:
    match form:
        case "parquet":
            return pq.ParquetWriter(file, schema)
        case "csv":
            return pacsv.CSVWriter(file, schema, write_options=pacsv.WriteOptions(quoting_style="needed"))


def write_report_table(path: Path, table: pa.Table) -> list[Path]:
    """Write the table as CSV and as Parquet; ``path`` has no suffix."""
    forms: tuple[Form, ...] = ("csv", "parquet")
    return [write_table(path.with_suffix(f".{form}"), form, table.schema, [table]).path for form in forms]


DEVICES = ("gpu", "cpu")
"""Devices whose seconds are counted."""


def numbers_table(report: Report) -> pa.Table:
    """One row per configuration and probe: our accuracies in [0, 1], the paper's in percent, and the runs."""
    rows = [_row(row, report) for table in report.tables.values() for row in table]
    numbers = {f"{role}_{part}" for role in (*ROLES, "gain") for part in ("mean", "std", "low", "high")}
    numbers |= {"paper_input", "paper_teacher", "paper_student", "difference"}
    numbers |= {f"device_seconds_{kind}" for kind in DEVICES}
    counts = {"n", *STYLES}
    return _table(rows, numbers, counts)


def verdicts_table(report: Report) -> pa.Table:
    """One row per claim, group and mean behind the verdict; a verdict without means has one row."""
    rows: list[dict[str, object]] = []
    for judged in report.verdicts:
        about = {"experiment": report.experiment, "claim": judged.claim, "where": judged.where}
        about |= {"verdict": judged.verdict.word, "why": judged.verdict.why, "rule": judged.rule}
        about["runs"] = " ".join(judged.runs)
        limits = judged.verdict.numbers.items()
        rows += [{**about, "of": name, "mean": each.mean, "low": each.low, "high": each.high, "n": each.n}
                 for name, each in limits] or [{**about, "of": None}]  # fmt: skip
    return _table(rows, {"mean", "low", "high"}, {"n"})


def _row(row: ResultRow, report: Report) -> dict[str, object]:
    found: dict[str, object] = {
        "experiment": report.experiment,
        "sweep": ", ".join(report.sweeps),
        "data": "; ".join(report.data),
        "epoch": report.which,
        "probe": row.probe.partition("@")[0],
        "distilled_on": data_title(row.data[0]),
        "probed_on": data_title(row.data[1]),
        **row.shown,
    }
    for role in (*ROLES, "gain"):
        value = row.measured.get(role)
        found |= {f"{role}_{part}": None for part in ("mean", "std", "low", "high")}
        if value is not None:
            found |= {f"{role}_{part}": getattr(value, part) for part in ("mean", "std", "low", "high")}
    found["n"] = row.n
    found |= dict.fromkeys(STYLES, 0) | row.counts
    found |= {f"device_seconds_{kind}": row.device_seconds.get(kind) for kind in DEVICES}
    for role in ROLES:
        found[f"paper_{role}"] = None if row.printed is None else getattr(row.printed, role)
    found |= {"difference": row.difference, "paper_source": row.printed and row.printed.source}
    found["runs"] = " ".join(run.run for run in row.runs)
    return found


def _table(rows: Sequence[Mapping[str, object]], numbers: set[str], counts: set[str]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    types = {name: pa.float64() if name in numbers else pa.int64() if name in counts else pa.string() for name in names}
    return pa.table({name: pa.array([row.get(name) for row in rows], types[name]) for name in names})

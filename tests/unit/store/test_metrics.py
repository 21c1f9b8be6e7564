from __future__ import annotations

import math
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rt_scale.spec.errors import RunError
from rt_scale.store.metrics import SCHEMA, MetricsTable, read_metrics


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.parquet"
    before = time.time()
    table = MetricsTable(path)
    table.append(20, 1.0, {"train/loss": 0.1 + 0.2, "probe/student/linear": 1})
    table.append(2**40, 2.5, {"train/loss": math.nan})
    assert len(table) == 3
    table.flush()
    read = read_metrics(path)
    assert read.schema == SCHEMA
    columns = read.to_pydict()
    assert columns["step"] == [20, 20, 2**40]
    assert columns["epoch"] == [1.0, 1.0, 2.5]
    assert columns["name"] == ["train/loss", "probe/student/linear", "train/loss"]
    assert columns["value"][:2] == [0.1 + 0.2, 1.0]
    assert math.isnan(columns["value"][2])
    assert all(before <= moment <= time.time() for moment in columns["time"])


def test_going_on_from_a_copy(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "a.parquet")
    table.append(1, 0.1, {"loss": 3.0})
    copy = table.to_bytes()
    table.append(2, 0.2, {"loss": 2.0})
    table.flush()
    resumed = MetricsTable(tmp_path / "a.parquet", copy)
    assert resumed.to_bytes() == copy
    resumed.append(2, 0.2, {"loss": 1.0})
    resumed.flush()
    assert read_metrics(tmp_path / "a.parquet").column("value").to_pylist() == [3.0, 1.0]


def test_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.parquet").equals(SCHEMA.empty_table())
    table = MetricsTable(tmp_path / "m.parquet", MetricsTable(tmp_path / "m.parquet").to_bytes())
    table.flush()
    assert len(table) == 0
    assert read_metrics(tmp_path / "m.parquet").equals(SCHEMA.empty_table())


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.parquet"
    table = MetricsTable(path)
    table.append(1, 1.0, {"loss": 1.0})
    data = table.to_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"metrics\.parquet' cannot be read"):
        read_metrics(path)
    with pytest.raises(ValueError, match="not a readable parquet"):
        MetricsTable(path, path.read_bytes())
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(RunError, match="columns"):
        read_metrics(path)

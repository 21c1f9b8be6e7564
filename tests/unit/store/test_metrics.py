from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from rt_scale.spec.errors import RunError
from rt_scale.store.metrics import LEAST_SEEDS, SCHEMA, STATED, MetricsTable, interval, read_metrics


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


ANY = (-math.inf, math.inf)


@pytest.mark.parametrize("numbers", [[1.0, 2.0, 0.5], [0.3, 0.31, 0.35], [float(number**2) for number in range(12)]])
def test_an_interval_is_scipys(numbers: list[float]) -> None:
    mean, std, n = float(np.mean(numbers)), float(np.std(numbers, ddof=1)), len(numbers)
    expected = stats.t.interval(0.95, n - 1, loc=mean, scale=std / np.sqrt(n))
    assert interval(mean, std, n, ANY) == pytest.approx(expected, rel=1e-12)
    both = interval(np.array([mean, 0.0]), np.array([std, 0.0]), n, ANY)
    assert [end.tolist() for end in both] == [pytest.approx([end, 0.0], rel=1e-12) for end in expected]
    limit = stats.t.interval(0.90, n - 1, loc=mean, scale=std / np.sqrt(n))[0]
    assert interval(mean, std, n, ANY, 0.95)[0] == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_have_none(n: int) -> None:
    assert all(math.isnan(end) for end in interval(0.5, 0.1, n, (0.0, 1.0)))
    assert all(np.isnan(end).all() for end in interval(np.full(4, 0.5), np.full(4, 0.1), n, (0.0, 1.0)))
    assert (LEAST_SEEDS, "at least 3 seeds" in STATED) == (3, True)


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "expected"),
    [
        (0.9, 0.2, (0.0, 1.0), (0.9 - 0.4968, 1.0)),
        (0.1, 0.2, (0.0, 1.0), (0.0, 0.1 + 0.4968)),
        (0.1, 0.2, ANY, (0.1 - 0.4968, 0.1 + 0.4968)),
        (1.0, 5.0, (0.0, math.inf), (0.0, 1.0 + 12.4207)),
        (1.0, 0.0, (0.0, 1.0), (1.0, 1.0)),
        (-1e-9, 0.0, (0.0, math.inf), (-1e-9, -1e-9)),
    ],
)
def test_an_interval_is_cut_at_what_its_mean_can_be(
    mean: float, std: float, bounds: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert interval(mean, std, 3, bounds) == pytest.approx(expected, abs=1e-4)


def test_cutting_keeps_the_coverage() -> None:
    """Of 4,000 means of 3 accuracies near 1, as many intervals hold the true mean cut as uncut, about 95 %."""
    draws = np.clip(np.random.default_rng(0).normal(0.8, 0.3, (4000, 3)), 0, 1)
    true = float(np.clip(np.random.default_rng(1).normal(0.8, 0.3, 400_000), 0, 1).mean())
    mean, std = draws.mean(axis=1), draws.std(axis=1, ddof=1)
    held = [((low <= true) & (true <= high)) for low, high in (interval(mean, std, 3, b) for b in (ANY, (0.0, 1.0)))]
    assert (held[0] == held[1]).all()
    assert interval(mean, std, 3, ANY)[1].max() > 1.3
    assert interval(mean, std, 3, (0.0, 1.0))[1].max() == 1.0

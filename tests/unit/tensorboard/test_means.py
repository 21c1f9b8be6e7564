from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from rt_scale.store.metrics import MetricsTable
from rt_scale.tensorboard import means as module
from rt_scale.tensorboard.means import EVERY, MARGIN, SEEDS, layout_summary, margin_tags, mean_curves, write_means
from tests.unit.tensorboard.boards import curve

NAME = "probe/student/linear"
CHARTS = {NAME: [MARGIN]}


def table(path: Path, values: Sequence[float], name: str = NAME) -> Path:
    rows = MetricsTable(path)
    for step, value in enumerate(values):
        rows.append(step, step / 10, {name: value, "unasked": 1.0})
    rows.flush()
    return path


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    values = [[0.1, 0.2, 0.3], [0.3, 0.6], [0.2, 0.4, 0.9]]
    return [table(tmp_path / f"run-{number}" / "metrics.parquet", each) for number, each in enumerate(values)]


def test_means_and_the_ends_of_their_intervals(tmp_path: Path, tables: list[Path]) -> None:
    """0.1, 0.3, 0.2; then 0.2, 0.6, 0.4, whose interval would reach below 0."""
    write_means(tmp_path / "mean", [*tables, tmp_path / "not-begun" / "metrics.parquet"], [NAME], CHARTS)
    half = [stats.t.ppf(0.975, 2) * std / math.sqrt(3) for std in (0.1, 0.2)]
    assert half[1] > 0.4
    expected = {
        NAME: [0.2, 0.4],
        f"with interval/{NAME}/mean": [0.2, 0.4],
        f"with interval/{NAME}/lower": [max(0.0, 0.2 - half[0]), 0.0],
        f"with interval/{NAME}/upper": [0.2 + half[0], 0.4 + half[1]],
    }
    tags = EventAccumulator(str(tmp_path / "mean")).Reload().Tags()["tensors"]
    assert sorted(tags) == sorted([*expected, SEEDS])
    assert curve(tmp_path / "mean", SEEDS) == [(1, 3.0)]
    for tag, values in expected.items():
        points = curve(tmp_path / "mean", tag)
        assert [step for step, _ in points] == [0, 1]
        assert [value for _, value in points] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(("seeds", "means"), [(1, [0.1, 0.2, 0.3]), (2, [0.2, 0.4])])
def test_one_or_two_seeds_have_a_mean_and_no_interval(
    tmp_path: Path, tables: list[Path], seeds: int, means: list[float]
) -> None:
    write_means(tmp_path / "mean", tables[:seeds], [NAME], CHARTS)
    mean, *ends = margin_tags(NAME)
    assert [value for _, value in curve(tmp_path / "mean", mean)] == pytest.approx(means)
    for end in ends:
        assert [math.isnan(value) for _, value in curve(tmp_path / "mean", end)] == [True] * len(means)


def test_nothing_is_read_or_written_where_no_table_has_changed(
    tmp_path: Path, tables: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    (file,) = (tmp_path / "mean").iterdir()
    before = file.stat()
    read: list[Path] = []
    monkeypatch.setattr(module, "read_metrics", lambda path: read.append(path))
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    assert read == []
    assert [path.stat() for path in (tmp_path / "mean").iterdir()] == [before]


def test_means_by_another_rule_for_intervals_are_made_again(
    tmp_path: Path, tables: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store keeps the means that an earlier version made, with the intervals of that version."""
    monkeypatch.setattr(module, "STATED", "no interval is ever cut")
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    (before,) = (tmp_path / "mean").iterdir()
    monkeypatch.undo()
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    (after,) = (tmp_path / "mean").iterdir()
    assert after.name != before.name


def test_a_reader_that_watches_sees_the_new_means_in_place_of_the_old(tmp_path: Path, tables: list[Path]) -> None:
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    watcher = EventAccumulator(str(tmp_path / "mean"), size_guidance={"tensors": 0}).Reload()
    for again in (1, 2, 3):
        table(tables[1], [0.3 * again, 0.6 * again, 0.3])
        later = tables[1].stat().st_mtime_ns + again * 10**9
        os.utime(tables[1], ns=(later, later))
        write_means(tmp_path / "mean", tables, [NAME], CHARTS)
        points = [float(tensor_util.make_ndarray(point.tensor_proto)) for point in watcher.Reload().Tensors(NAME)]
        assert points == pytest.approx([0.1 + 0.1 * again, 0.2 + 0.2 * again, 0.5])
    # What nobody can be reading any more is gone.
    assert len(os.listdir(tmp_path / "mean")) == 2


def test_other_metrics_are_other_means(tmp_path: Path, tables: list[Path]) -> None:
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    write_means(tmp_path / "mean", tables, ["unasked"], {})
    assert [value for _, value in curve(tmp_path / "mean", "unasked")] == [1.0, 1.0]
    with pytest.raises(KeyError):
        curve(tmp_path / "mean", NAME)


@pytest.mark.parametrize("damage", ["empty", "missing", "torn"])
def test_where_there_is_no_mean_there_is_no_curve(tmp_path: Path, tables: list[Path], damage: str) -> None:
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    for path in tables:
        path.unlink()
    if damage == "empty":
        table(tables[0], [])
    if damage == "torn":
        tables[0].write_bytes(b"PAR1")
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    assert list((tmp_path / "mean").iterdir()) == []


@pytest.mark.parametrize("prefixes", [[], [EVERY], [MARGIN, EVERY]])
def test_intervals_are_curves_where_they_are_drawn(tmp_path: Path, tables: list[Path], prefixes: list[str]) -> None:
    write_means(tmp_path / "mean", tables, [NAME], {NAME: prefixes})
    tags = EventAccumulator(str(tmp_path / "mean")).Reload().Tags()["tensors"]
    assert sorted(tags) == sorted([NAME, SEEDS, *(tag for prefix in prefixes for tag in margin_tags(NAME, prefix))])
    # Where they are drawn elsewhere, they are made again.
    write_means(tmp_path / "mean", tables, [NAME], CHARTS)
    assert set(margin_tags(NAME)) < set(EventAccumulator(str(tmp_path / "mean")).Reload().Tags()["tensors"])


def test_charts_of_every_configuration_are_closed_at_first() -> None:
    (value,) = layout_summary([NAME, "train/loss"], every=True).value
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(value.tensor).item())
    shown = [(each.title, each.closed, each.chart[0].margin.series[0].lower) for each in layout.category]
    assert shown == [
        ("linear probe", False, f"with interval/{NAME}/lower"),
        ("loss", False, "with interval/train/loss/lower"),
        ("linear probe, every configuration", True, f"with interval, every configuration/{NAME}/lower"),
        ("loss, every configuration", True, "with interval, every configuration/train/loss/lower"),
    ]


def test_charts_are_grouped_by_what_they_measure() -> None:
    metrics = [NAME, "probe/teacher/linear", "probe/student/knn", "probe@cifar100/student/linear_standardized"]
    metrics += ["probe/student/ridge", "train/loss", "test/accuracy", "distance/from_init"]
    (value,) = layout_summary(metrics).value
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("custom_scalars__config__", "custom_scalars")
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(value.tensor).item())
    # TensorBoard draws the last chart of a category first.
    shown = {
        category.title: [chart.margin.series[0].value for chart in reversed(category.chart)]
        for category in layout.category
    }
    assert shown == {
        "linear probe": [margin_tags(metric)[0] for metric in (*metrics[:2], metrics[3])],
        "kNN probe": [margin_tags(metrics[2])[0]],
        "ridge probe": [margin_tags(metrics[4])[0]],
        "loss": [margin_tags(metric)[0] for metric in ("train/loss", "test/accuracy")],
        "distances": [margin_tags("distance/from_init")[0]],
    }
    for category in layout.category:
        for chart in category.chart:
            (series,) = chart.margin.series
            metric = chart.title.partition(":")[0]
            assert (series.value, series.lower, series.upper) == margin_tags(metric)


def seed(*rows: tuple[int, str, float, float]) -> pa.Table:
    return pa.table(list(map(list, zip(*rows, strict=True))), names=["step", "name", "value", "time"])


FIRST = seed((0, "a", 1.0, 10.0), (5, "a", 2.0, 11.0), (5, "b", 7.0, 11.0), (9, "a", 4.0, 12.0))
THIRD = seed((0, "a", 2.0, 1.0), (5, "a", 2.0, 3.0))
SECOND = seed((0, "a", 3.0, 20.0), (5, "a", 2.0, 9.0), (7, "a", 0.0, 22.0), (9, "b", 1.0, 23.0))


def test_mean_and_interval_at_the_steps_that_all_seeds_have() -> None:
    curves = mean_curves([FIRST, SECOND, THIRD], ["a"])
    assert list(curves) == ["a"]
    curve = curves["a"]
    assert curve.steps.tolist() == [0, 5]
    assert curve.times.tolist() == [20.0, 11.0]
    assert curve.mean.tolist() == [2.0, 2.0]
    half = stats.t.ppf(0.975, 2) / 3**0.5  # the standard deviation is 1
    assert curve.low == pytest.approx([2 - half, 2.0])
    assert curve.high == pytest.approx([2 + half, 2.0])


def test_runs_that_log_nothing_in_common_have_no_curve() -> None:
    assert mean_curves([FIRST, SECOND], []) == {}


def test_an_accuracys_interval_ends_at_100_percent_and_a_distances_at_0() -> None:
    found = {}
    for name in ("probe/student/knn", "distance/from_init", "a"):
        curves = mean_curves([seed((0, name, value, 1.0)) for value in (1.0, 0.9, 0.2)], [name])
        found[name] = float(curves[name].low[0]), float(curves[name].high[0])
    half = stats.t.ppf(0.975, 2) * stats.sem([1.0, 0.9, 0.2])
    assert found["a"] == pytest.approx((0.7 - half, 0.7 + half))
    assert found["probe/student/knn"] == (0.0, 1.0)
    assert found["distance/from_init"] == pytest.approx((0.0, 0.7 + half))


def test_metrics_are_in_the_order_asked_for_and_those_without_a_common_step_left_out() -> None:
    assert list(mean_curves([FIRST], ["b", "a", "c"])) == ["b", "a"]
    assert list(mean_curves([FIRST, SECOND], ["b", "a"])) == ["a"]
    assert mean_curves([], ["a"]) == {}


def test_of_one_or_two_seeds_the_mean_is_known_and_no_interval() -> None:
    for seeds, mean in (([FIRST], [1.0, 2.0, 4.0]), ([FIRST, SECOND], [2.0, 2.0])):
        curve = mean_curves(seeds, ["a"])["a"]
        assert curve.mean.tolist() == mean
        assert np.isnan([curve.low, curve.high]).all()


def test_a_seed_that_diverged_is_not_hidden() -> None:
    broken = seed((0, "a", math.inf, 1.0), (5, "a", math.nan, 1.0), (9, "a", 2.0, 1.0))
    curve = mean_curves([FIRST, FIRST, broken], ["a"])["a"]
    assert curve.mean[0] == math.inf
    assert math.isnan(curve.mean[1])
    assert curve.mean[2] == pytest.approx(10 / 3)
    assert np.isnan([curve.low, curve.high]).tolist() == [[True, True, False]] * 2


def test_what_was_measured_again_counts_as_measured_last() -> None:
    assert mean_curves([seed((3, "a", 1.0, 1.0), (3, "a", 5.0, 2.0))], ["a"])["a"].mean.tolist() == [5.0]

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import METRICS
from rt_scale.tensorboard import sweep_view as module
from rt_scale.tensorboard.means import EVERY, MARGIN, SEEDS
from rt_scale.tensorboard.sweep_view import (
    COLOURS,
    EXPERIMENT,
    MEANS,
    MOST_LINES,
    MOST_LISTED,
    SWEEP,
    BoardRun,
    _images,
    build_means_board,
    build_runs_board,
    first_lines,
)
from rt_scale.tensorboard.writer import END, START, BoardWriter, renew_events
from tests.unit.tensorboard.boards import curve, plugin_data


def sweep(tmp_path: Path) -> list[BoardRun]:
    runs = []
    for number, (alpha, seed) in enumerate([(0.5, 0), (0.5, 1), (1, 0)]):
        values = {"student.alpha": alpha, "encoder.norm": "none"}
        name = f"alpha={alpha:g}"
        runs.append(BoardRun(f"{name},seed={seed}", name, tmp_path / "runs" / f"distill-{number}", values))
    return runs


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def measured(run: BoardRun, value: float) -> None:
    table = MetricsTable(run.folder / METRICS)
    table.append(3, 1.0, {"loss": value, "other": value})
    table.flush()


@pytest.mark.parametrize("every_run", [False, True])
def test_a_view_declares_what_the_sweep_varies(tmp_path: Path, every_run: bool) -> None:
    """A session for each configuration, or for each run, in the group of its configuration."""
    board, runs = tmp_path / "board", sweep(tmp_path)
    names, groups = ["alpha=0.5", "alpha=1"], ["alpha=0.5", "alpha=1"]
    metrics = ["probe/student/linear", "a", "b", "c", "d"]
    build_means_board(board, runs, metrics, metrics, {})
    columns = ["student linear", "a", "b", "c", SEEDS, "d"]
    if every_run:
        board, means = tmp_path / "single", board
        names, groups = [run.label for run in runs], [run.group for run in runs]
        build_runs_board(board, means, runs, metrics, metrics)
        columns.remove(SEEDS)
        assert os.listdir(board / names[0]) == [START]
    assert sorted(os.listdir(board)) == sorted([*names, SWEEP, *([MEANS] if every_run else [])])
    experiment = plugin_data(board / SWEEP / EXPERIMENT)[metadata.EXPERIMENT_TAG]
    domains = {info.name: list(info.domain_discrete) for info in experiment.hparam_infos}
    assert domains == {"student.alpha": [0.5, 1.0], "encoder.norm": ["none"]}
    assert [info.display_name for info in experiment.metric_infos] == columns
    assert experiment.metric_infos[0].name.tag == metrics[0]
    records = [plugin_data(board / name / START)[metadata.SESSION_START_INFO_TAG] for name in names]
    assert [record.group_name for record in records] == groups
    assert [record.hparams["student.alpha"].number_value for record in records] == [
        float(group.removeprefix("alpha=")) for group in groups
    ]


def test_a_view_of_runs_follows_them(tmp_path: Path) -> None:
    board, means, runs = tmp_path / "sweeps" / "demo" / "board-runs", tmp_path / "means", sweep(tmp_path)

    def build() -> None:
        build_means_board(means, runs, ["loss"], [], {})
        (means / SWEEP / "events.out.tfevents.2-figures").touch()
        build_runs_board(board, means, runs, ["loss"], [])

    writer = BoardWriter(runs[1].folder)
    writer.scalars(1, {"loss": 1.0})
    build()
    assert curve(board / runs[1].label, "loss") == [(1, 1.0)]
    writer.scalars(2, {"loss": 2.0})
    writer.close("done")
    measured(runs[1], 0.5)
    build()
    assert curve(board / runs[1].label, "loss") == [(1, 1.0), (2, 2.0)]
    assert metadata.SESSION_END_INFO_TAG in plugin_data(board / runs[1].label / END)
    # Means are drawn among their seeds, and are no seed of their own.
    assert curve(board / MEANS / runs[1].group, "loss") == [(3, 0.5)]
    assert START not in os.listdir(board / MEANS / runs[1].group)
    assert [path.name for path in (board / SWEEP).iterdir() if path.is_symlink()] == ["events.out.tfevents.2-figures"]
    before = snapshot(board)
    build()
    assert snapshot(board) == before
    shutil.rmtree(board)
    build()
    assert {name: data for name, (_, data) in snapshot(board).items()} == {
        name: data for name, (_, data) in before.items()
    }
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "sweeps" / "demo" / "board-runs"
    assert curve(moved / runs[1].label, "loss") == [(1, 1.0), (2, 2.0)]


def test_views_drop_what_left_the_sweep(tmp_path: Path) -> None:
    board, single, runs = tmp_path / "board", tmp_path / "single", sweep(tmp_path)
    writer = BoardWriter(runs[2].folder)
    writer.close()
    for members, metrics in ((runs, ["loss"]), (runs[:2], ["loss", "kl"])):
        build_means_board(board, members, metrics, metrics, {})
        build_runs_board(single, board, members, metrics, metrics)
    assert sorted(os.listdir(board)) == sorted([SWEEP, runs[0].group])
    assert sorted(os.listdir(single)) == sorted([SWEEP, MEANS, runs[0].label, runs[1].label])
    assert os.listdir(single / MEANS) == [runs[0].group]
    assert writer.path.exists()
    experiment = plugin_data(single / SWEEP / EXPERIMENT)[metadata.EXPERIMENT_TAG]
    assert [info.name.tag for info in experiment.metric_infos] == ["loss", "kl"]


@pytest.mark.parametrize(
    ("values", "kind", "domain"),
    [
        ([0, 0.5, 1], api_pb2.DATA_TYPE_FLOAT64, [0.0, 0.5, 1.0]),
        ([True, False], api_pb2.DATA_TYPE_BOOL, [False, True]),
        (["none", "batch"], api_pb2.DATA_TYPE_STRING, ["batch", "none"]),
        (list(range(MOST_LISTED)), api_pb2.DATA_TYPE_FLOAT64, [float(value) for value in range(MOST_LISTED)]),
        (list(range(MOST_LISTED + 1)), api_pb2.DATA_TYPE_FLOAT64, (0.0, float(MOST_LISTED))),
        ([f"{value}" for value in range(12)], api_pb2.DATA_TYPE_STRING, sorted(f"{value}" for value in range(12))),
    ],
)
def test_axes_are_declared_with_their_domains(tmp_path: Path, values: list[Any], kind: int, domain: Any) -> None:
    """Few numbers are chosen one by one, of many a range."""
    runs = [BoardRun(f"x={value}", f"x={value}", tmp_path / "run", {"x": value}) for value in values]
    build_means_board(tmp_path / "board", runs, [], [], {})
    (info,) = plugin_data(tmp_path / "board" / SWEEP / EXPERIMENT)[metadata.EXPERIMENT_TAG].hparam_infos
    assert info.type == kind
    interval = (info.domain_interval.min_value, info.domain_interval.max_value)
    assert (interval if info.HasField("domain_interval") else list(info.domain_discrete)) == domain


def test_a_configuration_has_the_means_of_its_seeds(tmp_path: Path) -> None:
    board, runs = tmp_path / "board", sweep(tmp_path)
    for run, value in zip(runs, (0.25, 0.75, 2.0), strict=True):
        measured(run, value)
    build_means_board(board, runs, ["loss"], [], {})
    assert [curve(board / name, "loss") for name in ("alpha=0.5", "alpha=1")] == [[(3, 0.5)], [(3, 2.0)]]
    assert [curve(board / name, SEEDS) for name in ("alpha=0.5", "alpha=1")] == [[(3, 2.0)], [(3, 1.0)]]
    before = snapshot(board)
    build_means_board(board, runs, ["loss"], [], {})
    assert snapshot(board) == before
    build_means_board(board, runs[1:2], ["loss"], [], {})
    assert curve(board / "alpha=0.5", "loss") == [(3, 0.75)]


def grid(**axes: list[Any]) -> list[BoardRun]:
    """Two seeds of each point; the last axis varies first."""
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    names = [",".join(f"{key}={value}" for key, value in row.items()) for row in rows]
    return [BoardRun(f"{name},{seed}", name, Path("run"), row) for name, row in zip(names, rows, strict=True)
            for seed in (0, 1)]  # fmt: skip


def test_the_lines_shown_first_are_few_along_one_axis_and_of_distinct_colours() -> None:
    assert first_lines(grid(x=list(range(MOST_LINES)))) == [f"x={x}" for x in range(MOST_LINES)]
    assert first_lines(grid(x=[1, 2, 3], y=[4, 5, 6])) == ["x=1,y=4", "x=1,y=5", "x=1,y=6"]
    assert first_lines(grid(x=[1, 2, 3], y=[4, 5])) == ["x=1,y=4", "x=2,y=4", "x=3,y=4"]
    for count in (6, 7, 8, 14, 15, 17, 100):
        places = [int(name.removeprefix("x=")) for name in first_lines(grid(x=list(range(count))))]
        assert len({place % COLOURS for place in places}) == MOST_LINES
        assert places == sorted(places)
        assert places[0] == 0
        assert places[-1] >= count - 2  # the end, unless it has the colour of the beginning
    # Every seventh configuration: all have one colour.
    assert first_lines(grid(x=list(range(8)), y=list("abcdefg"))) == [f"x={x},y=a" for x in (0, 1, 3, 5, 7)]


def test_charts_of_many_configurations_are_of_few_and_of_all(tmp_path: Path) -> None:
    runs = grid(x=list(range(MOST_LINES + 1)))
    runs = [replace(run, folder=tmp_path / "runs" / run.label) for run in runs]
    for run in runs:
        measured(run, 0.5)
    few = first_lines(runs)
    for members, every in ((runs, True), (runs[: 2 * MOST_LINES], False)):
        build_means_board(tmp_path / "board", members, ["loss", "other"], ["loss"], {})
        build_runs_board(tmp_path / "single", tmp_path / "board", members, ["loss"], ["loss"])
        for folder, run in product(("board", f"single/{MEANS}"), members):
            tags = EventAccumulator(str(tmp_path / folder / run.group)).Reload().Tags()["tensors"]
            shown = {tag.partition("/")[0] for tag in tags if tag.endswith("/loss/mean")}
            expected = {MARGIN} if not every else {MARGIN, EVERY} if run.group in few else {EVERY}
            assert shown == expected
            assert not [tag for tag in tags if tag.endswith("/other/mean")]


def test_labels_must_differ(tmp_path: Path) -> None:
    run, other = (BoardRun(name, name, tmp_path / "run", {}) for name in ("a/b", "a_b"))
    builds: list[Callable[[list[BoardRun]], None]] = [
        lambda runs: build_means_board(tmp_path / "board", runs, [], [], {}),
        lambda runs: build_runs_board(tmp_path / "single", tmp_path / "board", runs, [], []),
    ]
    for build in builds:
        with pytest.raises(ValueError, match=r"labels must differ: \['a_b'\]"):
            build([run, other])
        with pytest.raises(ValueError, match=r"labels must differ: \['sweep'\]"):
            build([BoardRun(SWEEP, SWEEP, tmp_path / "run", {})])
    with pytest.raises(ValueError, match=r"labels must differ: \['mean'\]"):
        builds[1]([BoardRun(MEANS, "g", tmp_path / "run", {})])


def test_a_run_that_went_on_is_shown_once(tmp_path: Path) -> None:
    """Of an earlier version's run too, whose curves and end were files of their own."""
    board, means, runs = tmp_path / "single", tmp_path / "means", sweep(tmp_path)
    with closing(BoardWriter(runs[0].folder)) as first:
        first.scalars(1, {"loss": 1.0})
    first.path.rename(first.path.with_name("events.out.tfevents.2-scalars"))
    (runs[0].folder / "events.out.tfevents.3-end").write_bytes(b"")
    build_means_board(means, runs, ["loss"], [], {})
    build_runs_board(board, means, runs, ["loss"], [])
    assert curve(board / runs[0].label, "loss") == [(1, 1.0)]
    with closing(BoardWriter(runs[0].folder)) as second:
        second.scalars(1, {"loss": 2.0})
    build_runs_board(board, means, runs, ["loss"], [])
    names = [START, "events.out.tfevents.2-scalars", second.path.name]
    assert sorted(os.listdir(board / runs[0].label)) == names
    assert curve(board / runs[0].label, "loss") == [(1, 2.0)]


def figure(path: Path, value: int, size: tuple[int, int] = (6, 4), date: int = 100) -> Path:
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    os.utime(path, (date, date))
    return path


def images(reader: EventAccumulator) -> dict[str, tuple[float, bytes, bytes, bytes]]:
    """Tag -> date, width, height and file of its only image."""
    found = {}
    for tag in reader.Reload().Tags()["tensors"]:
        assert reader.SummaryMetadata(tag).plugin_data.plugin_name == "images"
        (event,) = reader.Tensors(tag)
        found[tag] = (event.wall_time, *tensor_util.make_ndarray(event.tensor_proto).tolist())
    return found


def test_figures_are_images_dated_by_their_files(tmp_path: Path) -> None:
    paths = {"figures/one": figure(tmp_path / "1.png", 9), "figures/two": figure(tmp_path / "2.png", 8, (300, 2), 200)}
    renew_events(tmp_path / "sweep", "figures", paths, _images)
    assert images(EventAccumulator(str(tmp_path / "sweep"))) == {
        "figures/one": (100.0, b"6", b"4", paths["figures/one"].read_bytes()),
        "figures/two": (200.0, b"300", b"2", paths["figures/two"].read_bytes()),
    }


def test_a_reader_that_watches_sees_the_new_figure_in_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = figure(tmp_path / "1.png", 9)
    watcher = EventAccumulator(str(tmp_path / "sweep"))
    renew_events(tmp_path / "sweep", "figures", {"one": path}, _images)
    assert images(watcher)["one"][0] == 100
    figure(path, 7, date=101)
    renew_events(tmp_path / "sweep", "figures", {"one": path}, _images)
    assert images(watcher) == {"one": (101.0, b"6", b"4", path.read_bytes())}
    # Unchanged, none is read again.
    monkeypatch.setattr(module, "_images", None)
    renew_events(tmp_path / "sweep", "figures", {"one": path}, _images)


@pytest.mark.parametrize("data", [None, b"", b"\x89PNG\r\n\x1a\n\0\0", b"no picture, but of some length"])
def test_what_is_no_figure_yet_is_left_out(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "2.png").write_bytes(data)
    renew_events(
        tmp_path / "sweep", "figures", {"one": figure(tmp_path / "1.png", 9), "two": tmp_path / "2.png"}, _images
    )
    assert set(images(EventAccumulator(str(tmp_path / "sweep")))) == {"one"}
    (tmp_path / "1.png").unlink()
    renew_events(tmp_path / "sweep", "figures", {"one": tmp_path / "1.png", "two": tmp_path / "2.png"}, _images)
    assert list((tmp_path / "sweep").iterdir()) == []

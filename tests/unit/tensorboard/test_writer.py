"""Event files as TensorBoard reads them, and settings as it can hold them."""

from __future__ import annotations

import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

from rt_scale.store.metrics import MetricsTable
from rt_scale.tensorboard.writer import END, SCALARS, START, BoardWriter, folder_name
from tests.unit.tensorboard.boards import curve, plugin_data


def earlier(*steps: int) -> MetricsTable:
    """What was measured up to a checkpoint."""
    table = MetricsTable(Path("nowhere"))
    for step in steps:
        table.append(step, 0.0, {"loss": step / 10, "other": 1.0})
    return table


def first_attempt(run: Path) -> BoardWriter:
    first = BoardWriter(run)
    for step in (10, 20, 30, 40):
        first.scalars(step, {"loss": step / 10})
    return first


def test_curves_are_readable_at_once(tmp_path: Path) -> None:
    with closing(BoardWriter(tmp_path / "run")) as board:
        board.scalars(0, {"probe/student/linear": 0.25, "train/loss": 2.0})
        board.scalars(5, {"probe/student/linear": 0.5, "train/loss": math.inf})
        assert curve(tmp_path / "run", "probe/student/linear") == [(0, 0.25), (5, 0.5)]
        assert curve(tmp_path / "run", "train/loss") == [(0, 2.0), (5, math.inf)]
    board.close("done")
    assert os.listdir(tmp_path / "run") == [board.path.name]


@pytest.mark.parametrize(("kept", "expected"), [([], []), ([10, 20], [(10, 1.0), (20, 2.0)])])
def test_going_on_supersedes_what_came_later(
    tmp_path: Path, kept: list[int], expected: list[tuple[int, float]]
) -> None:
    first = first_attempt(tmp_path)
    first.close("failed")
    with closing(BoardWriter(tmp_path, earlier(*kept) if kept else None)) as second:
        second.scalars(50, {"loss": 5.0})
        assert curve(tmp_path, "loss") == [*expected, (50, 5.0)]
    assert sorted(os.listdir(tmp_path)) == [first.path.name, second.path.name]
    BoardWriter(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [second.path.name, f"{SCALARS}-0003"]


def test_one_who_watches_sees_a_run_that_goes_on_once(tmp_path: Path) -> None:
    first = first_attempt(tmp_path)
    watcher = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    first.close()
    with closing(BoardWriter(tmp_path, earlier(10, 20))) as second:
        second.scalars(30, {"loss": 7.0})
        points = watcher.Reload().Tensors("loss")
    found = [(point.step, float(tensor_util.make_ndarray(point.tensor_proto))) for point in points]
    assert found == [(10, 1.0), (20, 2.0), (30, 7.0)]


def test_points_from_before_keep_their_time(tmp_path: Path) -> None:
    table = earlier(10)
    with closing(BoardWriter(tmp_path, table)):
        reader = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    ((_, time, values),) = table.points()
    assert [reader.Tensors(tag)[0].wall_time for tag in values] == [time, time]


@pytest.mark.parametrize("name", ["events.out.tfevents.2-scalars", f"{SCALARS}-0001"])
@pytest.mark.parametrize("lost", [1, 5, 20])
def test_what_a_killed_writer_left_torn_does_no_harm(tmp_path: Path, name: str, lost: int) -> None:
    """Of an earlier version's file too."""
    first = first_attempt(tmp_path)
    first.close()
    data = first.path.read_bytes()
    first.path.unlink()
    (tmp_path / name).write_bytes(data[:-lost])
    assert curve(tmp_path, "loss")[:3] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    with closing(BoardWriter(tmp_path, earlier(10))) as board:
        board.scalars(30, {"loss": 7.0})
    assert curve(tmp_path, "loss") == [(10, 1.0), (30, 7.0)]


@pytest.mark.parametrize(("status", "code"), [("done", api_pb2.STATUS_SUCCESS), ("failed", api_pb2.STATUS_FAILURE)])
def test_the_end_is_recorded_and_undone_by_going_on(tmp_path: Path, status: Any, code: int) -> None:
    BoardWriter(tmp_path).close(status)
    assert plugin_data(tmp_path / END)[metadata.SESSION_END_INFO_TAG].status == code
    BoardWriter(tmp_path).close()
    assert not (tmp_path / END).exists()


def test_settings_of_a_run(tmp_path: Path) -> None:
    with closing(BoardWriter(tmp_path / "distill-1")) as board:
        board.hyperparameters({"student": {"alpha": 0.5}, "data": {"name": "digits", "size": None}, "on": True})
    record = plugin_data(tmp_path / "distill-1" / START)[metadata.SESSION_START_INFO_TAG]
    assert record.group_name == "distill-1"
    assert set(record.hparams) == {"student.alpha", "data.name", "on"}
    assert record.hparams["student.alpha"].number_value == 0.5
    assert record.hparams["data.name"].string_value == "digits"
    assert record.hparams["on"].bool_value is True


def test_folder_names_are_single_and_short() -> None:
    assert folder_name("alpha=0.5,seed=3") == "alpha=0.5,seed=3"
    assert folder_name("../a/b") == "_a_b"
    assert folder_name("") == "run"
    long = [folder_name("ä" * 400 + end) for end in ("1", "2")]
    assert long[0] != long[1]
    assert all(len(name.encode()) < 200 for name in long)

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import api_pb2, metadata

from rt_scale.tensorboard.writer import END, SCALARS, START, BoardWriter
from tests.unit.tensorboard.boards import curve, plugin_data


def test_curves_are_readable_at_once(tmp_path: Path) -> None:
    with BoardWriter(tmp_path / "run") as board:
        board.scalars(0, {"probe/student/linear": 0.25, "train/loss": 2.0})
        board.scalars(5, {"probe/student/linear": 0.5, "train/loss": math.inf})
        assert curve(tmp_path / "run", "probe/student/linear") == [(0, 0.25), (5, 0.5)]
        assert curve(tmp_path / "run", "train/loss") == [(0, 2.0), (5, math.inf)]
    board.close("done")
    assert os.listdir(tmp_path / "run") == [SCALARS]


@pytest.mark.parametrize(("resume_step", "kept"), [(None, []), (20, [(10, 1.0), (20, 2.0)])])
def test_going_on_supersedes_what_came_later(
    tmp_path: Path, resume_step: int | None, kept: list[tuple[int, float]]
) -> None:
    first = BoardWriter(tmp_path)
    for step in (10, 20, 30, 40):
        first.scalars(step, {"loss": step / 10})
    first.close("failed")
    with BoardWriter(tmp_path, resume_step) as second:
        second.scalars(50, {"loss": 5.0})
        assert curve(tmp_path, "loss") == [*kept, (50, 5.0)]


def test_a_torn_record_is_cut(tmp_path: Path) -> None:
    with BoardWriter(tmp_path) as board:
        board.scalars(1, {"loss": 1.0})
        whole = (tmp_path / SCALARS).stat().st_size
        board.scalars(2, {"loss": 2.0})
    data = (tmp_path / SCALARS).read_bytes()
    damaged = [data[:end] for end in (whole + 5, whole + 20, len(data) - 1)]
    damaged += [data[:-6] + b"\0" * 6, data[:whole] + b"\0" * 40]
    for tail in damaged:
        (tmp_path / SCALARS).write_bytes(tail)
        with BoardWriter(tmp_path, resume_step=1) as board:
            board.scalars(3, {"loss": 3.0})
        assert curve(tmp_path, "loss") == [(1, 1.0), (3, 3.0)]


@pytest.mark.parametrize(("status", "code"), [("done", api_pb2.STATUS_SUCCESS), ("failed", api_pb2.STATUS_FAILURE)])
def test_the_end_is_recorded_and_undone_by_going_on(tmp_path: Path, status: Any, code: int) -> None:
    BoardWriter(tmp_path).close(status)
    assert plugin_data(tmp_path / END)[metadata.SESSION_END_INFO_TAG].status == code
    BoardWriter(tmp_path).close()
    assert not (tmp_path / END).exists()


def test_settings_of_a_run(tmp_path: Path) -> None:
    with BoardWriter(tmp_path / "distill-1") as board:
        board.settings({"student": {"alpha": 0.5}, "data": {"name": "digits", "size": None}, "on": True})
    record = plugin_data(tmp_path / "distill-1" / START)[metadata.SESSION_START_INFO_TAG]
    assert record.group_name == "distill-1"
    assert set(record.hparams) == {"student.alpha", "data.name", "on"}
    assert record.hparams["student.alpha"].number_value == 0.5
    assert record.hparams["data.name"].string_value == "digits"
    assert record.hparams["on"].bool_value is True

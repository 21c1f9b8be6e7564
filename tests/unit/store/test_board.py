from __future__ import annotations

import math
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

from rt_scale.spec.errors import InputError
from rt_scale.store.board import (
    END,
    EXPERIMENT,
    SCALARS,
    START,
    BoardRun,
    BoardWriter,
    build_sweep_board,
    serve,
)


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard's own reader sees it, after discarding what a restart supersedes."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [(point.step, float(tensor_util.make_ndarray(point.tensor_proto))) for point in reader.Tensors(tag)]


def plugin_data(path: Path) -> dict[str, Any]:
    """tag -> HParams record of every summary in an event file."""
    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    parse = {
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }
    return {value.tag: parse[value.tag](value.metadata.plugin_data.content) for value in values}


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


def test_view_of_a_sweep(tmp_path: Path) -> None:
    board, runs = tmp_path / "sweeps" / "demo" / "board", sweep(tmp_path)
    build_sweep_board(board, runs, ["probe/student/linear"])
    assert sorted(os.listdir(board)) == sorted([EXPERIMENT, *(run.label for run in runs)])
    assert os.listdir(board / runs[0].label) == [START]
    experiment = plugin_data(board / EXPERIMENT)[metadata.EXPERIMENT_TAG]
    assert {info.name for info in experiment.hparam_infos} == {"student.alpha", "encoder.norm"}
    domains = {info.name: list(info.domain_discrete) for info in experiment.hparam_infos}
    assert domains["student.alpha"] == [0.5, 1.0]
    assert domains["encoder.norm"] == ["none"]
    assert [info.name.tag for info in experiment.metric_infos] == ["probe/student/linear"]
    records = [plugin_data(board / run.label / START)[metadata.SESSION_START_INFO_TAG] for run in runs]
    assert [record.group_name for record in records] == ["alpha=0.5", "alpha=0.5", "alpha=1"]
    assert [record.hparams["student.alpha"].number_value for record in records] == [0.5, 0.5, 1.0]


def test_view_follows_its_runs(tmp_path: Path) -> None:
    board, runs = tmp_path / "sweeps" / "demo" / "board", sweep(tmp_path)
    build_sweep_board(board, runs, ["loss"])
    writer = BoardWriter(runs[1].folder)
    writer.scalars(1, {"loss": 1.0})
    build_sweep_board(board, runs, ["loss"])
    assert curve(board / runs[1].label, "loss") == [(1, 1.0)]
    writer.scalars(2, {"loss": 2.0})
    writer.close("done")
    build_sweep_board(board, runs, ["loss"])
    assert curve(board / runs[1].label, "loss") == [(1, 1.0), (2, 2.0)]
    assert metadata.SESSION_END_INFO_TAG in plugin_data(board / runs[1].label / END)
    before = snapshot(board)
    build_sweep_board(board, runs, ["loss"])
    assert snapshot(board) == before
    shutil.rmtree(board)
    build_sweep_board(board, runs, ["loss"])
    assert {name: data for name, (_, data) in snapshot(board).items()} == {
        name: data for name, (_, data) in before.items()
    }
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "sweeps" / "demo" / "board"
    assert curve(moved / runs[1].label, "loss") == [(1, 1.0), (2, 2.0)]


def test_view_drops_what_left_the_sweep(tmp_path: Path) -> None:
    board, runs = tmp_path / "board", sweep(tmp_path)
    BoardWriter(runs[2].folder).close()
    build_sweep_board(board, runs, ["loss"])
    build_sweep_board(board, runs[:2], ["loss", "kl"])
    assert sorted(os.listdir(board)) == sorted([EXPERIMENT, runs[0].label, runs[1].label])
    assert (runs[2].folder / SCALARS).exists()
    experiment = plugin_data(board / EXPERIMENT)[metadata.EXPERIMENT_TAG]
    assert [info.name.tag for info in experiment.metric_infos] == ["loss", "kl"]


def test_labels_must_differ(tmp_path: Path) -> None:
    run = BoardRun("a/b", "g", tmp_path / "run", {})
    with pytest.raises(ValueError, match="labels must differ"):
        build_sweep_board(tmp_path / "board", [run, BoardRun("a_b", "g", tmp_path / "other", {})], [])


def test_a_port_in_use_is_bad_input(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"{port}.*--port"):
            serve(tmp_path, print, port=port)

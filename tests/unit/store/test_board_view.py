from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import api_pb2, metadata

from rt_scale.store.board import END, SCALARS, START, BoardWriter
from rt_scale.store.board_view import EXPERIMENT, MEANS, MOST_LISTED, BoardRun, build_sweep_board
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import METRICS
from tests.unit.store.boards import curve, plugin_data


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
    assert sorted(os.listdir(board)) == sorted([EXPERIMENT, MEANS, *(run.label for run in runs)])
    assert os.listdir(board / runs[0].label) == [START]
    experiment = plugin_data(board / EXPERIMENT)[metadata.EXPERIMENT_TAG]
    assert {info.name for info in experiment.hparam_infos} == {"student.alpha", "encoder.norm"}
    domains = {info.name: list(info.domain_discrete) for info in experiment.hparam_infos}
    assert domains["student.alpha"] == [0.5, 1.0]
    assert domains["encoder.norm"] == ["none"]
    assert [info.name.tag for info in experiment.metric_infos] == ["probe/student/linear"]
    assert [info.display_name for info in experiment.metric_infos] == ["student linear"]
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
    assert sorted(os.listdir(board)) == sorted([EXPERIMENT, MEANS, runs[0].label, runs[1].label])
    assert (runs[2].folder / SCALARS).exists()
    experiment = plugin_data(board / EXPERIMENT)[metadata.EXPERIMENT_TAG]
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
    build_sweep_board(tmp_path / "board", runs, [])
    (info,) = plugin_data(tmp_path / "board" / EXPERIMENT)[metadata.EXPERIMENT_TAG].hparam_infos
    assert info.type == kind
    interval = (info.domain_interval.min_value, info.domain_interval.max_value)
    assert (interval if info.HasField("domain_interval") else list(info.domain_discrete)) == domain


def test_a_configuration_has_the_means_of_its_seeds(tmp_path: Path) -> None:
    board, runs = tmp_path / "board", sweep(tmp_path)
    for run, value in zip(runs, (0.25, 0.75, 2.0), strict=True):
        table = MetricsTable(run.folder / METRICS)
        table.append(3, 1.0, {"loss": value, "other": value})
        table.flush()
    build_sweep_board(board, runs, ["loss"])
    assert sorted(os.listdir(board / MEANS)) == ["alpha=0.5", "alpha=1"]
    assert [curve(board / MEANS / name, "loss") for name in ("alpha=0.5", "alpha=1")] == [[(3, 0.5)], [(3, 2.0)]]
    before = snapshot(board)
    build_sweep_board(board, runs, ["loss"])
    assert snapshot(board) == before
    build_sweep_board(board, runs[1:2], ["loss"])
    assert os.listdir(board / MEANS) == ["alpha=0.5"]
    assert curve(board / MEANS / "alpha=0.5", "loss") == [(3, 0.75)]


def test_labels_must_differ(tmp_path: Path) -> None:
    run = BoardRun("a/b", "g", tmp_path / "run", {})
    with pytest.raises(ValueError, match="labels must differ"):
        build_sweep_board(tmp_path / "board", [run, BoardRun("a_b", "g", tmp_path / "other", {})], [])
    with pytest.raises(ValueError, match=r"labels must differ: \['mean'\]"):
        build_sweep_board(tmp_path / "board", [BoardRun(MEANS, "g", tmp_path / "run", {})], [])

"""`rt-scale export` as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store
from tests.records import run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def files(tmp_path: Path, store: Store) -> list[Path]:
    """Two sweeps of two runs each, all of them finished."""
    paths = []
    for name, axis in (("a", {"student.alpha": [0.5, 1.0]}), ("b", {"encoder.norm": ["batch", "layer"]})):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "base": BASE, "axes": axis}))
        paths.append(path)
        for point in load_sweep(path)[1]:
            run = store.run(point.spec)
            with run.acquire():
                run.write_spec(point.spec)
                table = MetricsTable(run.metrics_path)
                table.append(1, 1.0, {"train/loss": 0.5})
                table.flush()
                run.complete(run_result({"train/loss": 0.5}))
    return paths


@pytest.fixture
def export(store: Store) -> Callable[..., str]:
    """What the command prints; it must succeed."""

    def call(*arguments: object) -> str:
        command = ["export", *map(str, arguments), "--store", str(store.root)]
        return CliRunner().invoke(app, command, catch_exceptions=False).stdout

    return call


def test_it_says_where_the_tables_are_and_how_long(export: Callable[..., str], files: list[Path], store: Store) -> None:
    folder = store.root / "sweeps" / "a" / "export"
    text = export(files[0], "--to", "csv")
    assert text == f"runs: 2 rows in {folder / 'runs.csv'}\ncurves: 2 rows in {folder / 'curves.csv'}\n"
    assert (folder / "runs.csv").read_text().startswith('"sweep","run","label","student.alpha",')
    assert json.loads(export(files[0], "--to", "parquet", "--json")) == {"version": 1} | {
        name: {"path": str(folder / f"{name}.parquet"), "rows": 2} for name in ("runs", "curves")
    }


def test_set_and_out(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    export(files[0], "--to", "parquet", "--set", "student.alpha=0.5", "--out", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "runs.parquet")["label"].to_pylist() == ["base,seed=0"]


def test_several_sweeps_need_a_place(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 sweeps go into one pair of tables; say where with --out FOLDER"):
        export(*files, "--to", "parquet")
    export(*files, "--to", "parquet", "--out", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert [(row["sweep"], row["student.alpha"], row["encoder.norm"]) for row in rows] == [
        ("a", 0.5, "none"), ("a", 1.0, "none"), ("b", 1e-10, "batch"), ("b", 1e-10, "layer")
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["--to", "xlsx"], []])
def test_the_kind_of_file_is_one_of_two(files: list[Path], arguments: list[str]) -> None:
    ended = CliRunner().invoke(app, ["export", str(files[0]), *arguments])
    assert ended.exit_code == 2
    assert "--to" in ended.output

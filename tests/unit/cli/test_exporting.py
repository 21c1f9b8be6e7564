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
from rt_scale.models.networks import build_pair
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import save_weights
from tests.records import DATA, run_record, run_result

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


def test_planes_need_a_place_and_a_plane(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out"):
        export(files[0], "--to", "vtp")
    with pytest.raises(InputError, match="kind landscape"):
        export(files[0], "--to", "vtp", "--out", tmp_path / "out")


def test_several_sweeps_need_a_place(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 sweeps go into one pair of tables; say where with --out FOLDER"):
        export(*files, "--to", "parquet")
    export(*files, "--to", "parquet", "--out", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert [(row["sweep"], row["student.alpha"], row["encoder.norm"]) for row in rows] == [
        ("a", 0.5, "none"), ("a", 1.0, "none"), ("b", 1e-10, "batch"), ("b", 1e-10, "layer")
    ]  # fmt: skip


def test_the_kind_of_file_is_one_of_those_known(files: list[Path]) -> None:
    ended = CliRunner().invoke(app, ["export", str(files[0]), "--to", "xlsx"])
    assert ended.exit_code == 2
    assert "--to" in ended.output


@pytest.fixture
def one(tmp_path: Path, store: Store) -> Path:
    """A sweep of one run, with the initial networks as its checkpoint."""
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"name": "one", "base": {**BASE, "encoder": {"name": "vgg11"}}}))
    ((point,),) = (load_sweep(path)[1],)
    images = {"channels": 3, "size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    pair = build_pair(point.spec, 3, 32)

    def write(folder: Path) -> None:
        save_weights(folder / "student.safetensors", pair.student)
        save_weights(folder / "teacher.safetensors", pair.teacher)

    run = store.run(point.spec)
    with run.acquire():
        run.write_spec(point.spec)
        run.write_record(run_record({}, data={**DATA, "images": images}))
        run.checkpoints.save(0, write, lambda: None)
        run.complete(run_result({}, steps=0))
    return path


def test_an_encoder_is_written(export: Callable[..., str], one: Path, tmp_path: Path) -> None:
    text = export(one, "--weights", tmp_path / "out")
    assert f"{tmp_path / 'out'}: README.md says" in text
    assert not (tmp_path / "out" / "README.md").read_text().startswith("---")
    given = ["--weights", tmp_path / "hub", "--as", "huggingface", "--network", "teacher", "--step", 0, "--json"]
    files = json.loads(export(one, *given))["files"]
    assert str(tmp_path / "hub" / "README.md") in files
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["network"] == "teacher"
    name = json.loads((tmp_path / "hub" / "config.json").read_text())["run"]
    export(name[:14], "--weights", tmp_path / "named", "--as", "torchvision", "--network", "init")
    assert {path.name for path in (tmp_path / "named").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    with pytest.raises(InputError, match="no student at step 7"):
        export(one, "--weights", tmp_path / "more", "--step", 7)


def test_runs_are_written_for_a_tracker(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    text = export(*files, "--to", "wandb", "--out", tmp_path / "out")
    assert "4 runs in" in text
    assert f"wandb sync {tmp_path}/out/wandb/offline-run-*" in text
    assert json.loads(export(files[0], "--to", "mlflow", "--out", tmp_path / "m", "--json"))["runs"] == 2
    assert (tmp_path / "m" / "mlflow.db").is_file()


def test_what_does_not_go_together_is_refused(export: Callable[..., str], files: list[Path], tmp_path: Path) -> None:
    out = ["--weights", tmp_path / "out"]
    for given, told in (
        ([], "either --to"),
        (["--to", "csv", *out], "either --to"),
        (["--to", "csv", "--network", "teacher"], "are of an encoder"),
        (["--to", "csv", "--step", 0], "are of an encoder"),
        (["--to", "wandb"], "Say with --out"),
        ([*out, "--out", tmp_path], "leave --out out"),
        (out, "these are 2 runs"),
    ):
        with pytest.raises(InputError, match=told):
            export(files[0], *given)
    assert not (tmp_path / "out").exists()

"""Runs of an earlier version are read, reported and gone on with: their names and their numbers stay."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.numpy import load_file

import rt_scale as rt
from rt_scale.data.prepare import open_prepared
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.golden.specs import DOCUMENTS, HERE, document, spec_of
from tests.integration.conftest import Ended

Cli = Callable[..., Ended]
NAMES = {
    "finished": "distill-57000ab4ba1700a0",
    "started_from": "distill-1c7813a697f88fa4",
    "supervised": "supervise-854bf960dbf75ec9",
    "batched_1": "distill-05fb0b3183355638",
    "batched_2": "distill-128da7e49e399444",
    "failed": "distill-131817d09aa77242",
    "killed": "distill-ec7ba7258175229e",
    "stopped": "distill-1055d834217f7e54",
    "early_stopped": "distill-465cbb7d687da2f9",
}
FINISHED = ["finished", "started_from", "supervised", "batched_1", "batched_2"]
UNFINISHED = ["killed", "stopped", "early_stopped"]


@pytest.fixture
def golden(tmp_path: Path) -> Store:
    """A copy of the golden store whose processes are long gone."""
    shutil.copytree(HERE / "store", tmp_path / "store")
    for lease in (tmp_path / "store").glob("runs/*/lease/*"):
        os.utime(lease, (0, 0))
    return Store(tmp_path / "store")


def settings(store: Store, data_dir: Path) -> Options:
    return Options(store=store, data_dir=data_dir, device="cpu", threads=1)


@pytest.mark.parametrize("label", DOCUMENTS)
def test_a_run_keeps_its_name(label: str, golden: Store) -> None:
    name = spec_of(label).name
    assert name == NAMES[label]
    assert (golden.root / "runs" / name).is_dir()


def test_every_run_is_of_this_list(golden: Store) -> None:
    assert sorted(golden.names()) == sorted(NAMES.values())


def test_status_tells_how_each_run_stands(golden: Store, cli: Cli) -> None:
    rows = json.loads(cli("status", "--store", golden.root, "--json").out)["runs"]
    states = {row["name"]: row["state"] for row in rows}
    expected = {label: "done" for label in FINISHED} | {label: "partial" for label in UNFINISHED} | {"failed": "failed"}
    assert states == {NAMES[label]: state for label, state in expected.items()}
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert "diverged" in failed["detail"]


def without_empty(value: Any) -> Any:
    """A value without the entries that hold nothing, which files of earlier versions left out."""
    if not isinstance(value, dict):
        return value
    return {key: without_empty(each) for key, each in value.items() if each not in ({}, None)}


@pytest.mark.parametrize("label", FINISHED)
def test_a_finished_run_is_returned_without_being_run(label: str, golden: Store, data_dir: Path) -> None:
    run_dir = golden.run(spec_of(label))
    before = {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")}
    result = run(spec_of(label), settings(golden, data_dir))
    recorded = json.loads((run_dir.path / "result.json").read_text())
    assert without_empty(result.to_json()) == recorded | {"version": 1}
    assert {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")} == before
    assert {"probe/student/linear", "probe/student/knn"} <= result.last.keys()
    metrics = read_metrics(run_dir.metrics_path).to_pylist()
    last = {row["name"]: row["value"] for row in metrics}
    assert last == result.last


def outcome(run_dir: RunDir) -> tuple[dict[str, Any], pa.Table, dict[str, Any]]:
    """Weights, metrics without their times, and the result's numbers."""
    result = run_dir.result()
    assert result is not None
    weights = load_file(run_dir.path / "checkpoints" / str(result.steps) / "student.safetensors")
    metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
    return weights, metrics, result.model_dump(include={"last", "best", "steps", "epochs", "data"})


@pytest.mark.parametrize("label", UNFINISHED)
def test_an_unfinished_run_goes_on_to_the_same_end(label: str, golden: Store, data_dir: Path, tmp_path: Path) -> None:
    """Bitwise where this machine's arithmetic is that of the machine that began the run, else to rounding."""
    spec = spec_of(label)
    before = set((golden.run(spec).path / "checkpoints").iterdir())
    run(spec, settings(golden, data_dir))
    run(spec, settings(Store(tmp_path / "again"), data_dir))
    assert before
    weights, metrics, result = outcome(golden.run(spec))
    old_weights, old_metrics, old_result = outcome(RunDir(HERE / "undisturbed" / "runs" / spec.name))
    new_weights, new_metrics, _ = outcome(Store(tmp_path / "again").run(spec))
    same_arithmetic = new_metrics.equals(old_metrics) and all(
        (new_weights[name] == old).all() for name, old in old_weights.items()
    )
    assert weights.keys() == old_weights.keys()
    if same_arithmetic:
        assert metrics.equals(old_metrics)
        assert result == old_result
        assert all((weights[name] == old).all() for name, old in old_weights.items())
    else:
        assert metrics.drop_columns("value").equals(old_metrics.drop_columns("value"))
        assert all(abs(weights[name] - old).max() < 1e-3 for name, old in old_weights.items())


def test_a_failed_run_is_tried_again_when_asked(golden: Store, data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "failed.yaml"
    spec.write_text(document("failed"))
    ended = cli("run", spec, "--store", golden.root, "--data-dir", data_dir, "--threads", 1)
    assert ended.code == 1
    assert "diverged" in ended.err


def test_a_report_has_their_means(golden: Store, cli: Cli, tmp_path: Path) -> None:
    sweep = {"name": "golden", "base": DOCUMENTS["finished"], "axes": {"student.alpha": [0.5, 1.0]}, "seeds": 3}
    (tmp_path / "golden.yaml").write_text(yaml.safe_dump(sweep))
    tables = json.loads(cli("report", tmp_path / "golden.yaml", "--store", golden.root, "--json").out)["tables"]
    results = [golden.run(NAMES[label]).result() for label in ("finished", "batched_1", "batched_2")]
    for probe in ("linear", "knn", "linear_standardized", "knn_standardized"):
        (row,) = tables[probe]
        assert row["values"] == {"student.alpha": 0.5}
        for role in ("input", "teacher", "student"):
            mean = sum(result.last[f"probe/{role}/{probe}"] for result in results if result) / 3
            assert row[role]["mean"] == pytest.approx(mean)
            assert row[role]["n"] == 3


@pytest.mark.parametrize("label", ["finished", "supervised", "killed"])
def test_the_networks_of_a_run_are_used_from_python(label: str, golden: Store, data_dir: Path, tmp_path: Path) -> None:
    images = open_prepared("digits", data_dir).test.read_all()[:8]
    run = rt.open_store(golden.root, data_dir=data_dir).run(NAMES[label])
    saved = load_file(run.path / "checkpoints" / "0" / "student.safetensors")
    weights = run.encoder("init").state_dict()
    assert all(np.array_equal(weights[name].numpy(), saved[f"encoder.{name}"]) for name in weights)
    assert run.embed(images, device="cpu").shape == (8, run.encoder().embed_dim)
    # An earlier version did not record mean and standard deviation of its images.
    with pytest.raises(rt.InputError, match="earlier version of rt-scale"):
        rt.open_store(golden.root, data_dir=tmp_path / "nowhere").run(NAMES[label]).embed(images)

"""A kind of run in one file outside of the package goes through every command; nothing that only reads imports it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rt_scale import plugins
from rt_scale.spec import kinds
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.conftest import Ended, starting

Start = Callable[..., subprocess.Popen[str]]
Cli = Callable[..., Ended]
OWN = Path(__file__).with_name("own_kind.py")
COUNT: dict[str, Any] = {"kind": "own_kind:Count", "limit": 12}
SWEEP = {
    "name": "counts",
    "base": {**COUNT, "after": {"run": {**COUNT, "limit": 2}}},
    "axes": {"limit": [3, 5]},
    "seeds": 3,
}


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command imported in this process is forgotten before the next one."""
    monkeypatch.setattr(kinds, "_OWN", {})
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_kind", raising=False)


def written(folder: Path, document: dict[str, Any], name: str = "spec.yaml") -> Path:
    shutil.copy(OWN, folder)
    (folder / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return folder / name


def completed(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=480)
    assert process.returncode == 0, (out, err)
    return out


def only_run(folder: Path) -> RunDir:
    store = Store(folder / "store")
    (name,) = store.names()
    assert name.startswith("count-")
    return store.run(name)


def numbers(run: RunDir) -> tuple[Any, ...]:
    result = run.result()
    assert result is not None
    files = {path.name: path.read_bytes() for path in run.artifacts.iterdir()}
    return read_metrics(run.metrics_path).drop_columns("time"), result.last, result.steps, files


def test_killed_and_gone_on_with(start: Start, wait_for: Any, tmp_path: Path) -> None:
    """Bitwise as a run that was left alone; the file of its source is kept, and what it wrote before is there."""
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    words = ["run", written(alone, COUNT), "--store", alone / "store"]
    completed(start(*words, cwd=alone))
    # What it waits is a field, so it is another run, but it changes no number.
    spec = written(killed, {**COUNT, "pause": 0.3})
    process = start("run", spec, "--store", killed / "store", cwd=killed)
    wait_for(lambda: any(killed.glob("store/runs/*/checkpoints/3/manifest.json")), process)
    process.kill()
    process.communicate()
    run = only_run(killed)
    assert run.status().state == "partial"
    assert len(np.load(run.artifacts / "sums.npz")["sums"]) >= 3
    completed(start("run", spec, "--store", killed / "store", cwd=killed))
    assert numbers(run) == numbers(only_run(alone))
    result = run.result()
    assert result is not None
    assert result.attempts == 2
    assert result.seconds > 9 * 0.3
    assert json.loads((run.path / "sources.json").read_text())["own_kind:Count"]["text"] == OWN.read_text()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep, planned before; the file of its kind is gone."""
    folder = tmp_path_factory.mktemp("swept")
    file = written(folder, SWEEP, "counts.yaml")
    with starting() as start:
        plan = completed(start("plan", file, "--store", folder / "store", "--json", cwd=folder))
        planned = json.loads(plan)
        assert (planned["to_compute"], planned["nodes"], planned["unknown"]) == (9, 9, 9)
        out = completed(start("sweep", file, "--store", folder / "store", cwd=folder))
        assert "6 of 6 runs finished" in out
        assert "count/sum" in out
        again = json.loads(completed(start("plan", file, "--store", folder / "store", "--json", cwd=folder)))
        assert again["to_compute"] == 0
        more = ["--store", folder / "store", "--json", "--set", "seeds=4"]
        grown = json.loads(completed(start("plan", file, *more, cwd=folder)))
        assert (grown["to_compute"], grown["unknown"]) == (3, 0)  # as runs of their shape took
    (folder / "own_kind.py").unlink()
    return folder


def test_runs_that_come_first_are_computed_once_a_seed(swept: Path) -> None:
    store = Store(swept / "store")
    results = {name: store.run(name).result() for name in store.names()}
    assert len(results) == 9
    last = {name: result.last["count/sum"] for name, result in results.items() if result}
    runs = {name: store.run(name).spec() or {} for name in last}
    for name, spec in runs.items():
        if spec["after"] is None:
            continue
        seeds = spec["seeds"]
        (first,) = (other for other, each in runs.items() if each["after"] is None and each["seeds"] == seeds)
        own = int(np.load(store.run(name).artifacts / "sums.npz")["sums"].sum())
        assert last[name] == last[first] + own


@pytest.mark.parametrize("from_bundle", [False, True], ids=["store", "bundle"])
def test_reading_imports_nothing(
    swept: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_bundle: bool
) -> None:
    """Where its kind cannot even be found, a sweep has its states, report, tables and comparison view."""
    monkeypatch.setenv("RT_SCALE_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.chdir(tmp_path)
    given: list[object] = [swept / "counts.yaml", "--store", swept / "store"]
    if from_bundle:
        assert cli("bundle", *given, "--out", tmp_path / "counts.tar.gz").code == 0
        given = [tmp_path / "counts.tar.gz"]
    rows = json.loads(cli("status", *given, "--json").out)["runs"]
    assert [row["state"] for row in rows] == ["done"] * 6
    assert rows[0]["label"] == "limit=3,seed=0"
    report = cli("report", *given, "--out", tmp_path / "report")
    assert report.code == 0, report.err
    assert "count/sum" in report.out
    page = (tmp_path / "report" / "counts" / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert cli("export", *given, "--to", "csv", "--out", tmp_path / "export").code == 0
    with open(tmp_path / "export" / "runs.csv") as file:
        exported = list(csv.DictReader(file))
    assert sorted(row["limit"] for row in exported) == ["3"] * 3 + ["5"] * 3
    assert all(float(row["last/count/sum"]) > 0 for row in exported)


def test_what_a_sweep_needs_is_kept(swept: Path, cli: Cli) -> None:
    """Its runs, those that they come after, and their artifacts, though their kind is not there."""
    gone = cli("gc", "--store", swept / "store", "--json")
    assert json.loads(gone.out)["found"] == []


def test_only_what_executes_imports(start: Start, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = tmp_path / "marks"
    monkeypatch.setenv("OWN_KIND_MARKS", str(marks))
    file = written(tmp_path, SWEEP, "counts.yaml")
    monkeypatch.chdir(tmp_path)
    words = [file, "--store", tmp_path / "store"]
    for command in (["status"], ["report"], ["export", "--to", "csv"]):
        refusal = cli(command[0], *words, *command[1:]).refusal()
        assert "own_kind:Count" in refusal
        assert "no record of these runs" in refusal
    assert not marks.exists()
    completed(start("plan", *words, cwd=tmp_path))
    assert len(marks.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "distil"}, ["kind: 'distil' is not known; did you mean 'distill'?", "supervise"]),
        ({"kind": "own_kind:Cuont"}, ["own_kind.py", "'Cuont'", "'Count'"]),
        ({"kind": "own_kinds:Count"}, ["no module 'own_kinds'"]),
        ({"kind": "own_kind:CountSpec"}, ["'own_kind:CountSpec' is no kind of run", "Experiment"]),
        ({"limit": 0}, ["limit", "greater than or equal to 1", "but 0 was given"]),
        ({"limt": 3}, ["limt: unknown key; did you mean 'limit'?"]),
        ({"limit": None}, ["limit: a whole number is expected, but null was given"]),
        (
            {"after": {"run": {**COUNT, "kind": "distill"}}},
            ["after.run.data: required", "after.run.limit: unknown key"],
        ),
        ({"after": {"run": {**COUNT, "limit": -1}}}, ["after.run.limit"]),
        ({"after": {"run": {**COUNT, "kind": "own_kind:Before"}}}, ["no kind of run"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, {**COUNT, **changes})
    refusal = cli("run", file, "--store", tmp_path / "store").refusal()
    assert [word for word in words if word not in refusal] == [], refusal
    assert not (tmp_path / "store" / "runs").exists()


def test_several_workers_are_refused_before_anything_starts(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, {**SWEEP, "launch": {"workers": 2}}, "counts.yaml")
    refusal = cli("sweep", file, "--store", tmp_path / "store").refusal()
    assert "2 workers were asked for, but runs of kind own_kind:Count take one" in refusal
    assert not (tmp_path / "store" / "runs").exists()

"""Runs on other images than are here by the same name: every command that shows results says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.data.meta import contents_sha256
from rt_scale.data.prepare import open_prepared
from rt_scale.ray_backend import sweep as driver
from rt_scale.report import board
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store
from tests.records import run_record, run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
LAST = {f"probe/{role}/linear": 0.5 for role in ("input", "teacher", "student")}
THEN = "ab" * 32
COMMANDS = ("status", "report", "export", "board", "plan", "bundle")

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    open_prepared("digits", folder)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "base": BASE, "axes": {"student.alpha": [0.25, 0.5, 1.0]}}))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def points(file: Path) -> list[Point]:
    return load_sweep(file)[1]


def begin(store: Store, point: Point, sha256: str, *, finished: bool) -> None:
    """A run on data with that checksum."""
    run, data = store.run(point.spec), {"name": "digits", "title": "Digits", "sha256": sha256}
    with run.acquire():
        run.write_spec(point.spec)
        attempt = {"time": 1.0, "device": "cpu", "git_commit": None, "git_dirty": None, "versions": {"torch": "2"}}
        run.write_record(run_record(attempt, data=data))
        table = MetricsTable(run.metrics_path)
        table.append(1, 1.0, LAST)
        table.flush()
        if finished:
            run.complete(run_result(LAST, name=run.name, data=data))


@pytest.fixture
def call(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, nothing_is_timed: None) -> Call:
    """Runs a command; a board is not served, and nothing is trained."""

    def nothing(*given: object, **more: object) -> Any:
        raise AssertionError("a run was started")

    monkeypatch.setattr(board, "serve", lambda *given, **more: None)
    monkeypatch.setattr(driver, "_run", nothing)
    monkeypatch.setenv("RT_SCALE_STORE", str(store.root))

    def run(command: str, *arguments: object, data_dir: Path) -> Result:
        more = {"bundle": ["--out", tmp_path / "packed.tar.gz"], "export": ["--to", "parquet"]}.get(command, [])
        words = [command, *map(str, (*arguments, *more)), "--data-dir", str(data_dir)]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_said_before_anything_is_shown(
    command: str, call: Call, file: Path, store: Store, points: list[Point], prepared: Path
) -> None:
    begin(store, points[0], THEN, finished=True)
    begin(store, points[1], THEN, finished=False)
    ended = call(command, file, data_dir=prepared)
    assert ended.exit_code == 0, ended.output
    (line,) = [line for line in ended.stderr.splitlines() if "warning" in line]
    for words in (
        "2 of 3 runs of sweep 'a' (1 finished and 1 begun",
        f"sha256 {THEN[:12]}..., here {(contents_sha256('digits', prepared) or '')[:12]}...",
        str(prepared / "digits"),
        "another name",
        "--store",
    ):
        assert words in line


@pytest.mark.parametrize("command", COMMANDS)
def test_where_it_is_the_same_or_not_there_nothing_is_said(
    command: str, call: Call, file: Path, store: Store, points: list[Point], prepared: Path, tmp_path: Path
) -> None:
    begin(store, points[0], contents_sha256("digits", prepared) or "", finished=True)
    for folder in (prepared, tmp_path / "nowhere"):
        ended = call(command, file, data_dir=folder)
        assert ended.exit_code == 0
        assert "warning" not in ended.stderr


@pytest.mark.parametrize("finished", [(True, True, True), (True, False), (False,)])
def test_a_sweep_starts_nothing(
    finished: tuple[bool, ...], call: Call, file: Path, store: Store, points: list[Point], prepared: Path
) -> None:
    for point, done in zip(points, finished, strict=False):
        begin(store, point, THEN, finished=done)
    with pytest.raises(InputError, match=rf"{len(finished)} of 3 runs of sweep 'a' .* with other contents") as refusal:
        call("sweep", file, data_dir=prepared)
    assert refusal.value.exit_code == 2
    assert not (store.root / "sweeps").exists()


def test_a_run_that_is_started_from_counts(
    call: Call, tmp_path: Path, store: Store, prepared: Path, points: list[Point]
) -> None:
    begin(store, points[0], THEN, finished=True)
    start = {"run": points[0].spec.canonical()}
    path = tmp_path / "b.yaml"
    path.write_text(yaml.safe_dump({"name": "b", "base": {**BASE, "teacher": {"start_from": start}}}))
    with pytest.raises(InputError, match=rf"1 of 2 runs of sweep 'b' \(1 finished, {points[0].spec.name}\)"):
        call("sweep", path, data_dir=prepared)


def test_a_cluster_may_have_what_this_machine_has_not(
    call: Call, file: Path, store: Store, points: list[Point], prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is here need not be what the nodes have: it is said with the tables, and not refused."""
    for point in points:
        begin(store, point, THEN, finished=True)
    ended = call("sweep", file, "--address", "10.0.0.1:6379", data_dir=prepared)
    assert ended.exit_code == 0
    assert "3 of 3 runs of sweep 'a'" in ended.stderr
    assert "rt-scale board" in ended.stdout


def test_a_complete_run_is_refused_before_it_is_called_complete(
    call: Call, tmp_path: Path, store: Store, points: list[Point], prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(store, points[1], THEN, finished=True)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(InputError, match="other contents"):
        call("run", path, "--set", "student.alpha=0.5", data_dir=prepared)
    assert "complete" not in capsys.readouterr().out
    assert "complete already" in call("run", path, "--set", "student.alpha=0.5", data_dir=tmp_path / "nowhere").stdout


def test_status_marks_the_runs(call: Call, file: Path, store: Store, points: list[Point], prepared: Path) -> None:
    begin(store, points[0], THEN, finished=True)
    begin(store, points[1], contents_sha256("digits", prepared) or "", finished=True)
    shown = call("status", file, data_dir=prepared).stdout
    (row,) = [line for line in shown.splitlines() if points[0].label in line]
    assert "other data: digits" in row
    assert points[1].label not in shown
    assert "1 on other data" in shown
    found = {
        row["name"]: row["other_data"] for row in json.loads(call("status", "--json", data_dir=prepared).stdout)["runs"]
    }
    assert found == {points[0].spec.name: "other data: digits", points[1].spec.name: ""}


def test_pages_and_tables_keep_it(
    call: Call, file: Path, store: Store, points: list[Point], prepared: Path, tmp_path: Path
) -> None:
    begin(store, points[0], THEN, finished=True)
    begin(store, points[1], contents_sha256("digits", prepared) or "", finished=False)
    call("report", file, "--summary", tmp_path / "kept", data_dir=prepared)
    folder = store.sweep("a").report
    for path in (folder / "report.md", folder / "report.html", tmp_path / "kept" / "README.md"):
        assert "with other contents" in path.read_text()
    call("export", file, data_dir=prepared)
    table = pq.read_table(store.sweep("a").export / "runs.parquet")
    assert table["same_data_here"].to_pylist() == [False, True, None]
    call("report", file, data_dir=tmp_path / "nowhere")
    assert "with other contents" not in (folder / "report.md").read_text()


def test_a_bundle_is_right_about_its_own_data(
    call: Call, file: Path, store: Store, points: list[Point], prepared: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    begin(store, points[0], THEN, finished=True)
    call("bundle", file, data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in ("status", "report", "export", "board"):
        said = call(command, tmp_path / "packed.tar.gz", data_dir=prepared).stderr
        assert "1 of 3 runs of sweep 'a'" in said
        assert "the bundle's own data" in said
        assert "another name" not in said

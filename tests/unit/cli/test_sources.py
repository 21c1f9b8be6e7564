"""Sweep files as commands read them: once, whatever they are, and no grid that is too large to be made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.cli.options import load_files
from rt_scale.spec import grid
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.bundle.format import is_bundle
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import read_sweep
from tests.unit.store.bundle.bundles import read

SWEEP: dict[str, Any] = {
    "name": "one",
    "base": {"data": {"name": "digits", "samples": 60}, "encoder": {"name": "convnet_4_1"}},
    "axes": {"student.alpha": [0.5, 1.0]},
}
STORE = Store(Path("store"))
SET = ["train.epochs=7", "probe.also=[mnist, stl10]"]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As some editors write it: with a byte-order mark, and with line ends of two characters."""
    path = tmp_path / "one.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(SWEEP).replace("\n", "\r\n").encode())
    return path


@pytest.fixture
def store(tmp_path: Path, file: Path) -> Store:
    """One where a run of the sweep, as SET has it, was begun."""
    store = Store(tmp_path / "store")
    point = load_sweep(file, SET)[1][0]
    run = store.run(point.spec)
    with run.acquire():
        run.write_spec(point.spec)
    return store


def piped(file: Path) -> Path:
    """What `<(cat FILE)` is: a path that can be read once."""
    ends = os.pipe()
    os.write(ends[1], file.read_bytes())
    os.close(ends[1])
    return Path(f"/dev/fd/{ends[0]}")


def cli(*arguments: object) -> str:
    ended = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


WAYS = pytest.mark.parametrize("way", [lambda file: file, piped], ids=["file", "pipe"])


@WAYS
def test_what_was_read_is_what_is_kept(way: Callable[[Path], Path], file: Path) -> None:
    (loaded,) = load_files([way(file)], SET, {}, STORE)
    assert (loaded.text, loaded.overrides) == (yaml.safe_dump(SWEEP), SET)
    loaded.folder.write(loaded.text, [point.spec.name for point in loaded.points], loaded.overrides)
    again = read_sweep(loaded.folder.file, (), STORE)
    assert [point.spec.hash for point in again.points] == [point.spec.hash for point in loaded.points]
    assert (again.points[0].spec.train.epochs, again.overrides) == (7, SET)


@pytest.mark.parametrize("more", [[], ["train.epochs=8"]])
def test_a_stores_own_file_is_the_sweep_as_it_was_run(more: list[str], file: Path, store: Store) -> None:
    (loaded,) = load_files([file], SET, {}, store)
    loaded.folder.write(loaded.text, [point.spec.name for point in loaded.points], loaded.overrides)
    options = [word for each in more for word in ("--set", each)]
    rows = json.loads(cli("status", loaded.folder.file, "--json", *options))["runs"]
    assert [row["state"] for row in rows] == ["missing" if more else "partial", "missing"]


@WAYS
def test_a_bundle_of_it_can_be_opened(way: Callable[[Path], Path], file: Path, store: Store) -> None:
    options = [word for each in SET for word in ("--set", each)]
    cli("bundle", way(file), *options, "--out", "made.tar.gz")
    rows = json.loads(cli("status", "made.tar.gz", "--json"))["runs"]
    assert [row["state"] for row in rows] == ["partial", "missing"]
    manifest = json.loads(read(Path("made.tar.gz"))["manifest.json"])
    assert "rt-scale bundle one.yaml " in manifest["made"]["command"]


def test_other_commands_read_a_pipe(file: Path, store: Store, plan: Callable[..., str]) -> None:
    assert len(json.loads(cli("status", piped(file), "--json"))["runs"]) == 2
    assert "2 distinct runs: 2 missing" in plan(piped(file))


def test_a_pipe_is_no_bundle_and_stays_unread(file: Path) -> None:
    pipe = piped(file)
    assert not is_bundle(pipe)
    assert pipe.read_bytes() == file.read_bytes()
    assert not is_bundle(Path("x" * 5000))


COMMANDS = ["status", "report", "board", "export --to csv", "bundle", "plan", "sweep"]


@pytest.mark.parametrize("command", [*COMMANDS, "plan --yes", "sweep --yes"])
def test_a_grid_that_is_too_large_is_refused_at_once(command: str, tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    axes = {"student.alpha": {"linspace": [0, 1, 4_000_000]}}
    file.write_text(yaml.safe_dump({**SWEEP, "name": "huge", "axes": axes, "seeds": 1000}))
    with pytest.raises(InputError, match=r"'huge' is a grid of 4,000,000,000 runs.*At most 1,000,000 are allowed"):
        cli(*command.split(), file)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["status", "export --to csv", "bundle", "report"])
def test_what_was_started_of_a_large_grid_may_be_looked_at(
    command: str, file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "GRID_LIMIT", 1)
    options = [word for each in SET for word in ("--set", each)]
    with pytest.raises(InputError, match=r"2 runs, more than 1: .* 'rt-scale sweep --yes' in this store"):
        cli(*command.split(), file, *options)
    store.sweep("one").write("", [point.spec.name for point in load_sweep(file, SET, limit=2)[1]])
    if command == "report":
        with pytest.raises(InputError, match="None of the 2 runs of sweep 'one' is finished"):
            cli(command, file, *options)
    else:
        cli(*command.split(), file, *options)


def test_a_sweep_of_the_package_is_named_and_a_file_of_that_path_wins(file: Path, tmp_path: Path) -> None:
    assert "small/fig18" in cli("sweeps")
    assert len(read_sweep(Path("small/fig18"), (), STORE).points) == 12
    assert "12 missing" in cli("status", "small/fig18")
    with pytest.raises(InputError, match=r"Unknown sweep 'small/fig19'\. Did you mean 'small/fig1"):
        cli("sweep", "small/fig19")
    (tmp_path / "small").mkdir()
    file.rename(tmp_path / "small" / "fig18")
    assert "2 missing" in cli("status", "small/fig18")


def test_names_of_files_that_are_too_long_are_refused(file: Path, store: Store) -> None:
    options = [word for each in SET for word in ("--set", each)]
    for given in (
        ["status", "x" * 5000],
        ["status", "x" * 300 + ".tar.gz"],
        ["bundle", file, *options, "--out", "x" * 300 + ".tar.gz"],
    ):
        with pytest.raises(InputError, match="File name too long"):
            cli(*given)

"""`rt-scale bundle`: what one machine packs, another one reads as the first does."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import RunError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration.conftest import Ended
from tests.integration.dying import DIES
from tests.unit.store.bundle.bundles import read, rewrite

Cli = Callable[..., Ended]
BASE: dict[str, Any] = {
    "data": {"name": "digits", "samples": 128},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.001}},
    "probe": {"every": "1ep", "epochs": 1, "standardized": False},
}
SWEEP: dict[str, Any] = {"name": "small", "base": BASE, "axes": {"student.alpha": [0.5, 1.0]}, "seeds": 2}
FIRST: dict[str, Any] = {"student": {"alpha": 0.25}, "train": BASE["train"]}
AGAIN: dict[str, Any] = {
    "name": "again",
    "base": {**BASE, "teacher": {"start_from": {"run": {"same_but": FIRST}}}, "student": {"alpha": 0.5}},
    "axes": {"train.optimizer.lr": [0.001, 1e30]},
}
"""Two runs that start from one; the second diverges."""
LABEL = ["--set", "probe.knn=5"]


class Made:
    """Sweep files, their store, and a bundle of both."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.files = [folder / "small.yaml", folder / "again.yaml"]
        for file, document in zip(self.files, (SWEEP, AGAIN), strict=True):
            file.write_text(yaml.safe_dump(document, sort_keys=False))
        self.settings = Options(store=self.store, data_dir=data_dir, device="cpu", threads=1)
        self.where = ["--store", str(self.store.root)]

    def points(self, number: int) -> list[Point]:
        return load_sweep(self.files[number], LABEL[1:])[1]

    def compute(self) -> None:
        """All but the last run of the first sweep; of the second one fails."""
        for point in [*self.points(0)[:-1], *self.points(1)]:
            try:
                run(point.spec, self.settings)
            except RunError:
                assert "1e+30" in point.label


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Made:
    made = Made(tmp_path_factory.mktemp("made"), data_dir)
    made.compute()
    return made


@pytest.fixture
def packed(made: Made, cli: Cli, tmp_path: Path) -> Path:
    ended = cli("bundle", *made.files, *LABEL, "--out", tmp_path / "both.tar.gz", *made.where)
    assert ended.code == 0, ended
    return tmp_path / "both.tar.gz"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine: another folder, another home, no store and no data."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("RT_SCALE_STORE", "RT_SCALE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


def test_what_is_missing_or_failed_is_said(made: Made, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "both.tar.gz"
    text = cli("bundle", *made.files, *LABEL, "--out", path, *made.where).out
    assert "4 runs: 3 done, 1 missing" in text
    assert "2 runs: 1 done, 1 failed" in text
    assert "diverged" in text.lower() or "finite" in text
    assert "1 more that these need: 1 done" in text
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert text.rstrip().endswith(f"sha256 {digest}")
    said = json.loads(cli("bundle", *made.files, *LABEL, "--out", path, *made.where, "--json").out)
    assert (said["path"], said["sha256"], said["size"]) == (str(path), digest, path.stat().st_size)
    assert said["sweeps"] == ["small", "again"]
    assert sorted(said["runs"].values()) == ["done"] * 5 + ["failed", "missing"]
    manifest = json.loads(read(path)["manifest.json"])
    assert manifest["made"] == {"command": "rt-scale bundle small.yaml again.yaml --weights none --set probe.knn=5"}
    assert said["files"] == len(manifest["files"]) == len(read(path)) - 1


def test_status_report_and_export_are_those_of_the_store(
    made: Made, packed: Path, cli: Cli, elsewhere: Path, tmp_path: Path
) -> None:
    shutil.copytree(made.store.root, tmp_path / "copy")
    where = ["--store", tmp_path / "copy", *LABEL]
    own = [row for file in made.files for row in json.loads(cli("status", file, *where, "--json").out)["runs"]]
    rows = json.loads(cli("status", packed, "--json").out)["runs"]
    assert rows == own
    assert {row["state"] for row in rows} == {"done", "failed", "missing"}

    reports = [cli("report", file, *where, "--json") for file in made.files]
    there = cli("report", packed, "--json", "--best", "--summary", tmp_path / "kept")
    assert there.code == 0, there
    kept = (tmp_path / "kept" / "README.md").read_text()
    assert f"\n    rt-scale report {packed} --best\n" in kept
    assert {f"[{name}]({name}/report.md)" in kept for name in ("small", "again")} == {True}
    there = cli("report", packed, "--json")
    assert there.out == "".join(report.out for report in reports)
    assert "1 of 2 runs finished" in cli("report", packed).out
    (cached,) = (elsewhere / "home" / ".cache" / "rt-scale-bundles").glob("*/")
    for name in ("small", "again"):
        page = Store(cached).sweep(name).report / "report.md"
        assert page.read_bytes() == (Store(tmp_path / "copy").sweep(name).report / "report.md").read_bytes()

    cli("export", *made.files, *where, "--to", "csv", "--out", tmp_path / "own")
    assert cli("export", packed, "--to", "csv", "--out", tmp_path / "there").code == 0
    for name in ("runs.csv", "curves.csv"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert len((tmp_path / "there" / "runs.csv").read_text().splitlines()) == 7


def test_the_board_shows_the_sweeps_of_a_bundle(
    packed: Path, elsewhere: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("board", packed, "--runs", "--port", 0)
    assert process.stdout is not None
    address = next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
    names = ["1 sweep=small,alpha=0.5", "2 sweep=small,alpha=1", "3 sweep=again,train.optimizer.lr=0.001"]
    wanted = {*(f"mean/{name}" for name in names), *(f"{name},seed=0" for name in names)}
    shown: set[str] = set()
    end = time.monotonic() + 60
    while not wanted < shown and time.monotonic() < end:
        with urllib.request.urlopen(f"{address.rstrip('/')}/data/runs") as answer:
            shown = set(json.load(answer))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert wanted < shown


def test_the_same_store_gives_the_same_bytes(made: Made, packed: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(made.store.root, tmp_path / "copy")
    cli("bundle", *made.files, *LABEL, "--out", tmp_path / "again.tar.gz", "--store", tmp_path / "copy")
    assert (tmp_path / "again.tar.gz").read_bytes() == packed.read_bytes()


def test_networks_go_along_when_asked(made: Made, cli: Cli, elsewhere: Path, tmp_path: Path) -> None:
    sizes = {}
    for weights in ("none", "final", "all"):
        path = tmp_path / f"{weights}.tar.gz"
        ended = cli("bundle", made.files[0], *LABEL, "--out", path, "--weights", weights, *made.where)
        assert ended.code == 0, ended
        sizes[weights] = len([name for name in read(path) if name.endswith("student.safetensors")])
        assert not [name for name in read(path) if name.endswith(".pt")]
        assert cli("status", path).code == 0
    assert (sizes["none"], sizes["final"]) == (0, 3)
    assert sizes["all"] > 3


@pytest.mark.parametrize(
    "moment",
    [
        "rt_scale.store.bundle.pack::_pack_run:3:before",
        "rt_scale.store.bundle.pack:_Writer:add:20:after",
        "rt_scale.store.bundle.pack::Packed:1:before",
    ],
)
def test_killed_while_packing_it_leaves_a_whole_file_or_the_one_before(
    made: Made, cli: Cli, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], packed: Path, moment: str
) -> None:
    out = tmp_path / "out" / "both.tar.gz"
    out.parent.mkdir()
    out.write_bytes(b"the one before")
    command = ["bundle", *made.files, *LABEL, "--out", out, *made.where]
    process = start(moment, *command, program=DIES)
    said = process.communicate(timeout=480)
    assert process.returncode == -signal.SIGKILL, said
    whole = packed.read_bytes()
    assert out.read_bytes() == (whole if "Packed" in moment else b"the one before")
    assert cli(*command).code == 0
    assert [path.name for path in out.parent.iterdir()] == ["both.tar.gz"]
    assert out.read_bytes() == whole


def test_a_sweep_goes_on_in_the_folder_that_a_bundle_was_unpacked_into(
    made: Made, packed: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    subprocess.run(["tar", "-xzf", packed, "-C", folder], check=True)
    for point in made.points(0):
        run(point.spec, replace(made.settings, store=Store(folder)))
    rows = json.loads(cli("status", made.files[0], *LABEL, "--store", folder, "--json").out)["runs"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("done", 1)] * 4
    for point in made.points(0)[:-1]:
        there, here = ((store.root / "runs" / point.spec.name / "result.json") for store in (Store(folder), made.store))
        assert there.read_bytes() == here.read_bytes()


def test_killed_while_unpacking_it_is_unpacked_again(
    packed: Path, cli: Cli, elsewhere: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("rt_scale.store.bundle.unpack::_undated:9:after", "status", packed, program=DIES)
    said = process.communicate(timeout=480)
    assert process.returncode == -signal.SIGKILL, said
    cache = elsewhere / "home" / ".cache" / "rt-scale-bundles"
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    assert "6 runs: 4 done" in cli("status", packed).out
    assert not list(cache.glob(".tmp-*"))


def forged(members: dict[str, bytes]) -> dict[str, bytes]:
    name = next(name for name in members if name.endswith("result.json"))
    return {**members, name: members[name].replace(b"0.", b"0.9")}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (forged, "is not what its manifest says"),
        (lambda members: {**members, "runs/../../evil": b""}, "which no bundle has"),
        (lambda members: {name: data for name, data in members.items() if name != "manifest.json"}, "no manifest.json"),
    ],
    ids=["forged", "traversal", "no manifest"],
)
@pytest.mark.parametrize("command", ["status", "report", "export", "board"])
def test_every_command_refuses_what_was_tampered_with(
    packed: Path, cli: Cli, elsewhere: Path, tmp_path: Path, command: str, change: Any, why: str
) -> None:
    rewrite(tmp_path / "evil.tar.gz", change(read(packed)), listed=False)
    more = ["--to", "csv"] if command == "export" else []
    assert why in cli(command, tmp_path / "evil.tar.gz", *more).refusal()
    assert not list((elsewhere / "home" / ".cache" / "rt-scale-bundles").glob("*/"))


def test_a_sweep_file_that_gives_other_runs_is_refused(packed: Path, cli: Cli, elsewhere: Path, tmp_path: Path) -> None:
    members = read(packed)
    text = members["sweeps/small/sweep.yaml"].decode()
    assert json.loads(members["sweeps/small/overrides.json"]) == ["probe.knn=5"]
    replaced = [("seeds: 2", "seeds: 1"), ("small", "again"), ("seeds: 2", "seeds: 20000")]
    changes = [("sweep.yaml", changed) for changed in (*(text.replace(*pair) for pair in replaced), "a: [", "\xff")]
    for name, changed in (*changes, ("overrides.json", '["probe.knn=6"]')):
        rewrite(tmp_path / "b.tar.gz", {**members, f"sweeps/small/{name}": changed.encode("latin-1")})
        assert "made by rt-scale" in cli("status", tmp_path / "b.tar.gz").refusal()


def test_what_makes_no_sense_is_refused(made: Made, packed: Path, cli: Cli, elsewhere: Path) -> None:
    assert "is a bundle, which holds sweeps" in cli("status", packed, *LABEL).refusal()
    assert "is a bundle, which holds sweeps" in cli("report", packed, *made.where).refusal()
    assert "is a bundle, which holds sweeps" in cli("export", packed, made.files[0], "--to", "csv").refusal()
    assert "is a bundle already" in cli("bundle", packed, *made.where).refusal()
    for out in ("b.zip", "."):
        assert "ends in .tar.gz" in cli("bundle", made.files[0], "--out", out, *made.where).refusal()
    assert "Known" not in cli("bundle", made.files[0], "--out", "b.tar.gz", "--store", "nothing").refusal()
    assert not (elsewhere / "b.tar.gz").exists()


def test_without_out_it_is_named_by_the_first_sweep(made: Made, cli: Cli, elsewhere: Path) -> None:
    assert cli("bundle", made.files[1], *LABEL, *made.where).code == 0
    assert [path.name for path in elsewhere.glob("*.tar.gz")] == ["again.tar.gz"]

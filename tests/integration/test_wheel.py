"""The package as pip installs it from a wheel: not a checkout, and nothing beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale import __version__
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store

ROOT = Path(__file__).parents[2]
SMALL = {
    "seeds": 2, "student.alpha": 0.5, "projector.out_dim": 16, "projector.hidden": "[16]", "data.samples": 60,
    "encoder.name": "convnet_4_1", "train.epochs": 1, "train.batch_size": 32, "probe.every": "1ep", "probe.epochs": 1,
}  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess[str]]


def pip(*arguments: object) -> None:
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "-q")
    command = [sys.executable, "-m", "pip", *map(str, arguments), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("rt_scale", "sweeps"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", source, "--no-build-isolation", "-w", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of an environment that has the wheel, and this one's other packages, from an empty folder."""
    folder, empty = tmp_path_factory.mktemp("env"), tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], timeout=120, check=True)
    pip("--python", folder / "bin" / "python", "install", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [folder / "bin" / program, *map(str, arguments)],
            cwd=empty, env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip

    return run


def test_a_wheel_has_what_the_package_needs_and_no_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {info.filename for info in archive.infolist() if (info.external_attr >> 28) != 0o12}
    assert (ROOT / "rt_scale" / "sweeps").resolve() == ROOT / "sweeps"
    wanted = {path.relative_to(ROOT) for path in (ROOT / "sweeps").rglob("*.*")}
    assert {f"rt_scale/{path}" for path in wanted} <= names
    files = {path for path in (ROOT / "rt_scale").rglob("*.*") if "__pycache__" not in path.parts and path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in files} <= names
    assert not [name for name in names if not name.startswith("rt_scale")]


def test_commands_of_an_installed_package(installed: Run, tmp_path: Path) -> None:
    place = installed("python", "-c", "import rt_scale; print(rt_scale.__file__)").stdout
    assert "/env" in place
    assert str(ROOT) not in place
    assert installed("rt-scale", "--version").stdout.split() == [__version__]
    helped = installed("rt-scale", "demo", "-h")
    assert helped.returncode == 0, helped.stderr
    assert "--set" in helped.stdout
    done = installed("rt-scale", "doctor", "--store", tmp_path / "store", "--data-dir", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    assert "cluster/bootstrap.sh" not in done.stdout  # which is not there


def test_the_sweeps_of_the_paper_are_named(installed: Run, tmp_path: Path) -> None:
    names = {str(path.relative_to(ROOT / "sweeps").with_suffix("")) for path in (ROOT / "sweeps").rglob("*.yaml")}
    listed = json.loads(installed("rt-scale", "sweeps", "--json").stdout)["sweeps"]
    assert {sweep["name"] for sweep in listed} == names >= {"demo", "paper/fig3", "small/fig3"}
    for name in ("paper/fig3", "small/fig3"):
        done = installed("rt-scale", "status", name, "--store", tmp_path, "--data-dir", tmp_path)
        runs = len(load_sweep(ROOT / "sweeps" / f"{name}.yaml")[1])
        assert done.stdout.rstrip().endswith(f"{runs} runs: {runs} missing"), done.stderr


def test_a_small_demo_of_an_installed_package(installed: Run, data_dir: Path, tmp_path: Path) -> None:
    sets = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    done = installed("rt-scale", "demo", "--store", tmp_path / "store", "--data-dir", data_dir, *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 runs finished" in done.stdout
    assert len(Store(tmp_path / "store").names()) == 2
    again = installed("rt-scale", "demo", "--store", tmp_path / "store", "--data-dir", data_dir)
    assert again.returncode == 2
    assert "--yes" in again.stderr

"""The examples of docs/examples run as they are written, with fewer images and steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_run
from rt_scale.store.sweep_runs import read_sweep
from tests.plugins import Write, write

__all__ = ["write"]
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
TINY = ["data.samples=60", "train.epochs=1", "probe.epochs=1", "probe.knn=5"]
EXPECTED = {
    "own_encoder": "own_encoder:Tiny",
    "own_data": "own_data:stripes",
    "own_objective": "own_objective:renyi",
    "own_probe": "own_probe:centroids",
}
KIND = "own_experiment"


def test_every_example_is_here_and_short() -> None:
    files = {path.stem: path for path in EXAMPLES.glob("own_*.py")}
    assert {*EXPECTED, KIND} == files.keys()
    assert [name for name, path in files.items() if len(path.read_text().splitlines()) >= 60] == []


def test_the_example_of_a_kind_runs_alone_and_swept(
    write: Write, tmp_path: Path, settings: Callable[..., Options]
) -> None:
    for path in EXAMPLES.glob(f"{KIND}*"):
        write(path.name, path.read_text())
    given = settings(data_dir=tmp_path / "data")
    spec = load_run(tmp_path / f"{KIND}.yaml")
    result = run(spec, given)
    assert 0 <= result.last["pi/error"] < 0.2
    inside = np.load(given.store.run(spec).artifacts / "inside.npz")["inside"]
    assert result.last["pi/error"] == pytest.approx(abs(4 * inside.sum() / (5 * 2000) - np.pi))
    points = read_sweep(tmp_path / f"{KIND}_sweep.yaml", (), given.store, execute=True).points
    assert [point.configuration for point in points] == ["points=100", "points=10000"] * 3
    assert len({point.spec.name for point in points}) == 6


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(write: Write, tmp_path: Path, settings: Callable[..., Options], name: str) -> None:
    for suffix in (".py", ".yaml"):
        write(name + suffix, (EXAMPLES / (name + suffix)).read_text())
    spec = load_run(tmp_path / f"{name}.yaml", TINY)
    given = settings(data_dir=tmp_path / "data")
    last = run(spec, given).last
    assert last["train/loss"] > 0
    sources = json.loads((given.store.run(spec).path / "sources.json").read_text())
    assert sources[EXPECTED[name]]["text"] == (EXAMPLES / f"{name}.py").read_text()
    if name == "own_probe":
        assert 0 < last["extra/student/centroids_few"] <= 1

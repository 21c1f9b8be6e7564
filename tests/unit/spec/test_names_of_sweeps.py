"""Every run of every file in sweeps/ keeps its name, and so its directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt_scale.spec.run import all_runs
from rt_scale.spec.sweep import load_sweep

SWEEPS = Path(__file__).parents[3] / "sweeps"
NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("names_of_sweeps.json").read_text())
"""Sweep file -> names of its runs, those that they start from included, in their order; a new file is a new entry."""


def test_every_file_is_pinned() -> None:
    assert {str(path.relative_to(SWEEPS)) for path in SWEEPS.rglob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize("file", NAMES)
def test_names_stay(file: str) -> None:
    _, points = load_sweep(SWEEPS / file)
    assert [spec.name for spec in all_runs(point.spec for point in points)] == NAMES[file]

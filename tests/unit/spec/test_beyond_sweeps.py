"""The sweep files of follow-up science: each with a small twin that varies the same, and heads that are true."""

from __future__ import annotations

import re

import pytest

from rt_scale.spec.sweep import load_sweep
from tests.unit.spec.sweep_files import ROOT

FOLDER = ROOT / "sweeps" / "beyond"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_small"))
OF_COST = {"encoder.width", "teacher.encoder", "data.size", "data.samples"}
"""What a twin may vary or not, or at other values, for its runs to be quick."""


def head(name: str) -> dict[str, str]:
    lines = [line.removeprefix("# ") for line in (FOLDER / f"{name}.yaml").read_text().split("name: ")[0].splitlines()]
    return {word: rest for word, colon, rest in (line.partition(": ") for line in lines) if colon}


def test_every_file_is_one_of_two() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {each for name in NAMES for each in (name, f"{name}_small")}


@pytest.mark.parametrize("name", [each for name in NAMES for each in (name, f"{name}_small")])
def test_heads_are_true(name: str) -> None:
    sweep, points = load_sweep(FOLDER / f"{name}.yaml")
    words = head(name)
    assert sweep.name == name
    assert words["Runs"] == f"{len(points)}."
    assert words["Run"] == f"rt-scale sweep sweeps/beyond/{name}.yaml"
    assert words["Seen"]
    assert {point.seed for point in points} == set(range(3))
    if name.endswith("_small"):
        assert re.match(r"about \d+ (core-)?minutes", words["Expected"])
        assert "benchmarks/results/beyond" in (FOLDER / f"{name}.yaml").read_text()
    else:
        assert words["Question"]
        assert words["Source"]
        command = rf"rt-scale plan sweeps/beyond/{name}\.yaml --tflops 60"
        assert re.fullmatch(rf"[\d.]+ GPU-hours: {command}", words["Expected"])


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_varies_the_same_in_small(name: str) -> None:
    whole, small = (load_sweep(FOLDER / f"{each}.yaml") for each in (name, f"{name}_small"))

    def varied(found: object) -> set[str]:
        sweep = found[0]  # type: ignore[index]
        return {key for group in [sweep.axes, *sweep.zip] for key in group}

    assert varied(whole) - OF_COST == varied(small) - OF_COST
    assert len(small[1]) <= len(whole[1])

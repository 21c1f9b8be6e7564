"""The sweep files of the paper's experiments, read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec, load_sweep

ROOT = Path(__file__).parents[3]
ORDER = "fig1 fig3 fig4_epochs fig4_steps tab2 tab5 fig10 fig11 fig12 fig18 ema".split()  # noqa: SIM905 - as in docs/paper.md
ANALYSES = ("fig5", "fig8", "fig9", "fig14")
"""The experiments whose runs read the networks of others."""
FILES = [(folder, name) for folder in ("paper", "small") for name in ORDER]


@functools.cache
def load(folder: str, name: str) -> tuple[SweepSpec, list[Point]]:
    return load_sweep(ROOT / "sweeps" / folder / f"{name}.yaml")


def runs(folder: str, name: str) -> list[RunSpec]:
    return [point.spec for point in load(folder, name)[1]]


def hashes(folder: str, name: str) -> set[str]:
    return {spec.hash for spec in runs(folder, name)}


def head(folder: str, name: str) -> dict[str, str]:
    """The comment above the sweep, by the words that its lines begin with."""
    text = (ROOT / "sweeps" / folder / f"{name}.yaml").read_text()
    lines = [line.removeprefix("# ") for line in text.split("name: ")[0].splitlines()]
    return {word: rest for word, colon, rest in (line.partition(": ") for line in lines) if colon}


def values(name: str, field: str, folder: str = "paper") -> set[Any]:
    part, attribute = field.split(".")
    return {getattr(getattr(spec, part), attribute) for spec in runs(folder, name)}

"""Barriers of lines, with the second run as it is and with its units matched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rt_scale.report.analyses.base import Analysed
from rt_scale.report.analyses.connectivity import Curves, _panels, _tables
from rt_scale.spec.grid import Point


def curves(heights: dict[str, float]) -> Curves:
    """Triangles of these heights, by the ending of their columns."""
    rows, pairs = [], []
    for split, position in itertools.product(("test", "train"), (0.0, 0.5, 1.0)):
        row: dict[str, Any] = {"first": 0, "second": 1, "split": split, "position": position}
        for ending, height in heights.items():
            value = 0.2 + height * (1 - abs(2 * position - 1))
            row |= {f"{name}{ending}": value for name in ("error", "loss", "accuracy")}
        rows.append(row)
    for split, measure in itertools.product(("test", "train"), ("error", "loss")):
        pair: dict[str, Any] = {"first": 0, "second": 1, "split": split, "measure": measure, "l2": 3.0}
        for ending, height in heights.items():
            pair |= {f"barrier{ending}": height, f"barrier_line{ending}": height}
        pairs.append(pair | ({"l2_aligned": 2.0} if "_aligned" in heights else {}))
    return Curves(rows, pairs)


def group(heights: dict[str, float]) -> list[Analysed[Curves]]:
    point: Point = None  # type: ignore[assignment]  # neither a table nor a line reads it
    return [Analysed(point, {"start": "init"}, "done", curves(heights))]


def test_matched_units_are_a_line_and_a_row_of_their_own() -> None:
    groups = {"from init": group({"": 0.3, "_aligned": 0.1}), "from student": group({"": 0.05})}
    panels = _panels(groups)
    assert [panel.y_label for panel in panels] == [
        f"{s} {m}" for m in ("error (%)", "loss (nats)") for s in ("test", "train")
    ]
    lines = {line.label: line.y for line in panels[0].lines}
    assert {label: round(y[1], 9) for label, y in lines.items()} == {
        "from init": 50.0, "from init, units matched": 30.0, "from student": 25.0,
    }  # fmt: skip
    barriers, distances = _tables(groups)
    rows = {(row[0], row[1]): row[2:4] for row in barriers.rows[1:]}
    assert rows["from init", "test error (points)"] == ["30", "30"]
    assert rows["from init, units matched", "train error (points)"] == ["10", "10"]
    assert ("from student, units matched", "test error (points)") not in rows
    assert distances.rows == [
        ["runs", "distance", "distance, aligned"],
        ["from init", "3", "2"],
        ["from student", "3", "-"],
    ]


def test_a_barrier_that_was_not_measured() -> None:
    assert curves({"": 0.3}).barrier("test", "error", "barrier_aligned") is None
    assert curves({"": 0.3}).barrier("test", "error") == pytest.approx(0.3)

"""A figure of what ``profile_run.py --out`` wrote: seconds of every part, of two commits, beside the parts' floors.

python benchmarks/profile_figure.py BEFORE.json AFTER.json --out profile.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

LEAST = 0.01
"""Share of the longer run below which a part is left out: it could not be seen."""
TOTALS = ("all of the step", "the whole run")


def main() -> None:
    """Draw."""
    asked = _arguments()
    before, after = (_parts(json.loads(each.read_text())) for each in (asked.before, asked.after))
    whole = max(sum(row["seconds"] for row in rows.values()) for rows in (before, after))
    longest = {name: max(_seconds(before, name), _seconds(after, name)) for name in {**before, **after}}
    names = sorted((name for name in longest if longest[name] >= LEAST * whole), key=lambda name: longest[name])
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(7.5, 0.8 + 0.45 * len(names)), layout="constrained")
        for offset, rows, colour, label in ((0.2, before, "#b5b5b5", "before"), (-0.2, after, "#21918c", "after")):
            label += f": {sum(row['seconds'] for row in rows.values()):.1f} s in all"
            places = [place + offset for place in range(len(names))]
            axes.barh(places, [_seconds(rows, name) for name in names], 0.38, color=colour, label=label)
        floors = [after.get(name, {}).get("floor", 0.0) for name in names]
        shown = [(place, floor) for place, floor in enumerate(floors) if floor]
        axes.vlines(
            [floor for _, floor in shown], [place - 0.42 for place, _ in shown], [place + 0.42 for place, _ in shown],
            color="#d62728", linewidth=1.5, label="floor: FLOPs and bytes at measured rates",
        )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("seconds")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(asked.out, dpi=110)


def _parts(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in found["parts"] if row["part"] not in TOTALS}


def _seconds(rows: dict[str, dict[str, Any]], name: str) -> float:
    return float(rows.get(name, {}).get("seconds", 0.0))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()

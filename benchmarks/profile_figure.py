"""A figure of what ``profile_run.py --out`` wrote: seconds of parts, in two states of the code, beside their floors.

    python benchmarks/profile_figure.py --before a.json b.json --after c.json d.json --out profile.png

Bars are means over the runs of a side, whiskers from the shortest to the longest, floors those of the last run after.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

LEAST = 0.01
"""Share of the longest run below which a part is left out: it could not be seen."""
TOTALS = ("all of the step", "the whole run")
Seconds = dict[str, list[float]]
"""By part, one a run."""


def main() -> None:
    """Draw."""
    asked = _arguments()
    sides = {"before": _seconds(asked.before), "after": _seconds(asked.after)}
    floors = {row["part"]: row["floor"] for row in _rows(asked.after[-1])}
    names = _worth_drawing(list(sides.values()))
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(7.5, 0.8 + 0.45 * len(names)), layout="constrained")
        for (label, seconds), offset, colour in zip(sides.items(), (0.2, -0.2), ("#b5b5b5", "#21918c"), strict=True):
            means = [statistics.mean(seconds[name]) for name in names]
            whiskers = [
                [mean - min(seconds[name]) for name, mean in zip(names, means, strict=True)],
                [max(seconds[name]) - mean for name, mean in zip(names, means, strict=True)],
            ]
            whole = statistics.mean(sum(run) for run in zip(*seconds.values(), strict=True))
            axes.barh(
                [place + offset for place in range(len(names))], means, 0.38, xerr=whiskers, color=colour,
                label=f"{label}: {whole:.1f} s in all", error_kw={"elinewidth": 0.8, "capsize": 2},
            )  # fmt: skip
        shown = [(place, floors[name]) for place, name in enumerate(names) if floors[name]]
        axes.vlines(
            [floor for _, floor in shown], [place - 0.42 for place, _ in shown], [place + 0.42 for place, _ in shown],
            color="#d62728", linewidth=1.5, label="floor: FLOPs and bytes at measured rates",
        )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("seconds")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(asked.out, dpi=110)


def _rows(file: Path) -> list[dict[str, float | str]]:
    return [row for row in json.loads(file.read_text())["parts"] if row["part"] not in TOTALS]


def _seconds(files: Sequence[Path]) -> Seconds:
    runs = [{row["part"]: row["seconds"] for row in _rows(file)} for file in files]
    return {str(name): [float(run[name]) for run in runs] for name in runs[0]}


def _worth_drawing(sides: Sequence[Seconds]) -> list[str]:
    """The parts that are seen, the longest last, which is drawn on top."""
    longest = {name: max(max(side[name]) for side in sides) for name in sides[0]}
    whole = sum(longest.values())
    return sorted((name for name in longest if longest[name] >= LEAST * whole), key=lambda name: longest[name])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, nargs="+", required=True, help="JSON, one a run")
    parser.add_argument("--after", type=Path, nargs="+", required=True, help="the same, of the other side")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Which switches leave the probing curve within seed noise?

    python benchmarks/fidelity.py [--data NAME] [--samples N] [--epochs N] [--encoder NAME] [--seeds N]
        [--figure FILE.png] [--out FOLDER]

A student with alpha = 0 or 1e-10 starts from rounding noise, and every switch that is said to be harmless changes
that noise: the teacher cached or computed, channels_last or not, float32, tf32, bf16 or float64. For each of them,
normalisation and alpha, this runs the same seeds with one switch changed, and compares the probing curves pairwise:
d is the difference of a seed's mean accuracy over all evaluations after the start, in percentage points.

Runs are kept in FOLDER, one store a switch: started again, it goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from lib.measure import open_data, print_header
from scipy import stats

from rt_scale.data.meta import default_data_dir
from rt_scale.experiments.options import Options, find_device
from rt_scale.experiments.runner import run
from rt_scale.spec.document import set_dotted
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store
from rt_scale.training.precision import check_precision

PROBES = ("linear", "knn")


class Switch(NamedTuple):
    """One way of computing.

    Attributes:
        name: of the row.
        settings: of the execution, where they are not the base's.
        precision: of the spec.
    """

    name: str
    settings: dict[str, Any]
    precision: str = "float32"


BASE = Switch("float32, cached, channels_last", {"cache_teacher": True, "channels_last": True})
SWITCHES = (
    Switch("teacher computed at every step", {"cache_teacher": False, "channels_last": True}),
    Switch("channels_last off", {"cache_teacher": True, "channels_last": False}),
    Switch("tf32", BASE.settings, "tf32"),
    Switch("bf16", BASE.settings, "bf16"),
    Switch("float64", BASE.settings, "float64"),
)


@dataclass
class Curves:
    """The probing curves of one switch, one a seed.

    Attributes:
        values: probe -> a curve (accuracies after the start) a seed.
        kl: KL to the teacher in the first epoch, nats, a value a seed.
        moved: distance from the start at the end, a value a seed.
    """

    values: dict[str, list[list[float]]] = field(default_factory=lambda: {probe: [] for probe in PROBES})
    kl: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Read one run's metrics table."""
        table = read_metrics(path).to_pydict()
        rows = list(zip(table["name"], table["step"], table["value"], strict=True))
        for probe in PROBES:
            name = f"probe/student/{probe}"
            self.values[probe].append([value for each, step, value in rows if each == name and step > 0])
        self.kl.append(next(value for each, _, value in rows if each == "train/kl"))
        self.moved.append([value for each, _, value in rows if each == "distance/from_init"][-1])

    def means(self, probe: str) -> list[float]:
        """The mean over the curve, in percent, of every seed."""
        return [100 * statistics.fmean(curve) for curve in self.values[probe]]


def specs(options: argparse.Namespace, norm: str, alpha: float, precision: str) -> Iterator[RunSpec]:
    """The same run for every seed."""
    for seed in range(options.seeds):
        document: dict[str, Any] = {
            "data": {"name": options.data, "samples": options.samples},
            "encoder": {"name": options.encoder, "norm": norm, "width": options.width},
            "projector": {"hidden": [256, 256], "bottleneck": 64, "out_dim": 1024},
            "student": {"alpha": alpha},
            "train": {"epochs": options.epochs},
            "probe": {"every": f"{max(1, options.epochs // 5)}ep", "standardized": False},
            "precision": precision,
        }
        yield RunSpec.model_validate(set_dotted(document, "seeds", dict.fromkeys(["teacher", "student", "data"], seed)))


def measure(options: argparse.Namespace, switch: Switch, norm: str, alpha: float) -> Curves:
    """Run, or read, all seeds of one configuration."""
    store = Store(options.out / switch.name.replace(" ", "_").replace(",", ""))
    given = Options(
        store=store, data_dir=default_data_dir(options.data_dir), device=options.device, threads=1, **switch.settings
    )
    curves = Curves()
    for spec in specs(options, norm, alpha, switch.precision):
        run(spec, given)
        curves.add(store.run(spec).metrics_path)
    return curves


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    return statistics.fmean(differences), float(half)


def verdict(mean: float, half: float, noise: float) -> str:
    """``within``: no difference is seen, or one smaller than the seeds' own deviation."""
    return "within" if abs(mean) <= max(half, noise) else "differs"


def compare(options: argparse.Namespace, norm: str, alpha: float) -> dict[str, Curves]:
    """Print the rows of one normalisation and alpha; the curves of every switch by its name."""
    base = measure(options, BASE, norm, alpha)
    found = {BASE.name: base}
    noise = {probe: statistics.stdev(base.means(probe)) for probe in PROBES}
    levels = " | ".join(f"{statistics.fmean(base.means(probe)):.1f} ± {noise[probe]:.1f}" for probe in PROBES)
    facts = f"{statistics.fmean(base.kl):.1e} | {statistics.fmean(base.moved):.2f}"
    print(f"| {norm} | {alpha:g} | {BASE.name} | {levels} | {facts} |", flush=True)
    for switch in SWITCHES:
        try:
            check_precision(switch.precision, find_device(options.device))
        except InputError:
            continue
        other = found[switch.name] = measure(options, switch, norm, alpha)
        cells = []
        for probe in PROBES:
            pairs = zip(other.means(probe), base.means(probe), strict=True)
            mean, half = interval([theirs - ours for theirs, ours in pairs])
            cells.append(f"d = {mean:+.1f} ± {half:.1f}, {verdict(mean, half, noise[probe])}")
        facts = f"{statistics.fmean(other.kl):.1e} | {statistics.fmean(other.moved):.2f}"
        print(f"| {norm} | {alpha:g} | {switch.name} | {' | '.join(cells)} | {facts} |", flush=True)
    return found


def draw(panels: dict[str, dict[str, Curves]], path: Path) -> None:
    """The linear probe's curves, mean and range over seeds, one panel a normalisation and alpha."""
    columns = -(-len(panels) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(3.6 * columns, 6), sharex=True, sharey=True, squeeze=False)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for number, (name, found) in enumerate(curves.items()):
            values = 100 * np.array(found.values["linear"])
            ahead = np.arange(1, values.shape[1] + 1)
            # Lines that lie on each other are told apart by their dashes.
            axis.plot(ahead, values.mean(axis=0), color=f"C{number}", lw=2, dashes=(2 + number, number), label=name)
            axis.fill_between(ahead, values.min(axis=0), values.max(axis=0), color=f"C{number}", alpha=0.08, lw=0)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("evaluation")
    for row in axes:
        row[0].set_ylabel("linear probe (%)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--encoder", default="convnet_32_3")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--norms", nargs="+", default=["none", "batch"])
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.0, 1e-10, 1e-4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path, default=Path("fidelity-store"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data(options.data, options.data_dir)
    facts = {
        "data": f"{data.info.title}, {options.samples or len(data.train.labels):,} images",
        "runs": f"{options.encoder} (width {options.width:g}), m = 1,024, {options.epochs} epochs",
        "n": f"{options.seeds} seeds",
        "device": options.device,
    }
    print_header("Which switches leave the probing curve within seed noise?", facts)
    print("| norm | alpha | switch | linear, % | 20-NN, % | KL in epoch 1 | distance from start |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    panels = {}
    for norm in options.norms:
        for alpha in options.alphas:
            panels[f"norm {norm}, alpha = {alpha:g}"] = compare(options, norm, alpha)
    if options.figure:
        draw(panels, options.figure)


if __name__ == "__main__":
    main()

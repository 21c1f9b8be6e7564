"""A small sweep in one process, run after run: with what its runs share, and with every run on its own.

    python benchmarks/reuse.py [--epochs 2] [--runs 5] [--rounds 1] [--encoder vgg11] [--cpu-time]

The runs are those of sweeps/small/fig3.yaml of one encoder and one seed, at fewer epochs: they differ in alpha, so they
have images and teacher in common. Both sides begin with an empty store and end with the same numbers, which is checked.
Each part's seconds are the sum over all runs of a sweep; a part that is read, not computed, counts under `reading`.
Where others use the machine, --cpu-time counts what this process computed (one thread) in place of what passed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from lib.measure import print_header

from rt_scale.data.loaders.resident import Resident
from rt_scale.data.places import default_data_dir
from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store

SWEEP = Path(__file__).parents[1] / "sweeps" / "small" / "fig3.yaml"
PARTS = {
    "probing input pixels": "input probes",
    "probing the teacher": "teacher probes",
    "embedding the teacher's targets": "teacher features",
    "probing the student": "student probes",
    "training": "training",
}
OTHER = "reading, building, writing"


class Clock(Silent):
    """Adds up the time between what a run says that it does; ``now`` tells the time in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = OTHER, now()

    def stage(self, text: str) -> None:
        """Something else begins."""
        self._begin(PARTS.get(text, OTHER))

    def started(self, step: int, steps: int) -> None:
        """Training begins, and whatever came before it ends."""
        self._begin("training")

    def logged(self, step: int, epoch: float, values: object) -> None:
        """What was measured is written down: until the next stage or step that is no probing."""
        if self._part != "training":
            self._begin(OTHER)

    def _begin(self, part: str) -> None:
        now = self.now()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def end(self) -> dict[str, float]:
        """Seconds by part."""
        self._begin(OTHER)
        return dict(self.seconds)


def specs(encoder: str, epochs: int, runs: int) -> list[RunSpec]:
    """The sweep's runs of that encoder and of its first seed."""
    found = [point.spec for point in load_sweep(SWEEP, [f"train.epochs={epochs}"])[1]]
    return [spec for spec in found if spec.encoder.name == encoder and spec.seeds == found[0].seeds][:runs]


def sweep(
    chosen: list[RunSpec], data_dir: Path, share: bool, now: Callable[[], float]
) -> tuple[dict[str, float], list[object]]:
    """Seconds by part of all runs, one after the other, and their results."""
    folder = Path(tempfile.mkdtemp(prefix="rt-scale-reuse-"))
    clock, resident = Clock(now), Resident()
    try:
        last: list[object] = []
        for spec in chosen:
            kept = resident if share else Resident()
            settings = Options(
                store=Store(folder), data_dir=data_dir, device="cpu" if not torch.cuda.is_available() else "cuda",
                threads=1, observer=clock, share=share, resident=kept,
            )  # fmt: skip
            last.append(run(spec, settings)["last"])
        return clock.end(), last
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vgg11")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1, help="sweeps of each kind, in turns")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    chosen, data_dir = specs(options.encoder, options.epochs, options.runs), default_data_dir(options.data_dir)
    now = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    facts = {
        "runs": f"{len(chosen)} of {SWEEP.name}, {options.encoder}, {options.epochs} epochs, 1 seed",
        "n": f"{options.rounds} sweeps of each kind, in turns, after one run to warm up",
        "seconds": "CPU time of this process" if options.cpu_time else "wall time",
    }
    print_header("What do runs gain that share what is constant in them?", facts)
    sweep(chosen[:1], data_dir, False, now)
    measured: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(options.rounds):
        results = []
        for share in (False, True):
            seconds, last = sweep(chosen, data_dir, share, now)
            measured[share].append(seconds)
            results.append(last)
        assert results[0] == results[1], "sharing changed a number"
    print("| part | alone, s | shared, s | alone / shared |\n| --- | --- | --- | --- |")
    for part in [*PARTS.values(), OTHER]:
        print_row(part, *(median([each.get(part, 0.0) for each in measured[share]]) for share in (False, True)))
    print_row("all", *(median([sum(each.values()) for each in measured[share]]) for share in (False, True)))
    print("\nAll metrics of all runs are equal to the last bit on both sides.")


def median(seconds: list[float]) -> float:
    """The median."""
    return statistics.median(seconds)


def print_row(part: str, alone: float, shared: float) -> None:
    """A row of the table."""
    ratio = f"{alone / shared:.2f}" if shared else "-"
    print(f"| {part} | {alone:.2f} | {shared:.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()

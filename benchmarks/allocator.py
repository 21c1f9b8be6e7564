"""What it saves that a training loop keeps freed memory (``rt_scale.training.memory``): time, page faults, CPU seconds.

    python benchmarks/allocator.py --data cifar10_jpeg [--encoder vgg11] [--out-dim 65536] [--rounds 5]

Epochs of the product's loop with and without, in turns. CPU seconds, user and system, are the number to go by on a
machine that others use as well: time on the wall is theirs too.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import measure
import torch
from step import Ours

from rt_scale.spec.run import RunSpec
from rt_scale.training import loop
from rt_scale.training.memory import keep_freed_memory

STEPS = 4
"""A round, of which the first is not in its wall time."""
WAYS = {"given back": contextlib.nullcontext, "kept": keep_freed_memory}


class Cost(NamedTuple):
    """Of a step; faults and CPU seconds of a round's first step are in."""

    wall: float
    user: float
    system: float
    faults: float


def measured(ours: Ours, way: str) -> Cost:
    """One round."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with patch.object(loop, "keep_freed_memory", WAYS[way]):
        wall = ours.round()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = (getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime", "ru_minflt"))
    return Cost(wall, *(each / STEPS for each in spent))


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    data = measure.open_data(asked.data, asked.data_dir)
    spec = RunSpec.model_validate(
        {
            "data": {"name": asked.data},
            "encoder": {"name": asked.encoder},
            "projector": {"out_dim": asked.out_dim},
            "train": {"batch_size": asked.batch_size},
        }
    )
    measure.print_header(
        f"Freed memory kept or given back: {asked.encoder}, m = {asked.out_dim:,}, batch {asked.batch_size}",
        {"repetitions": f"{asked.rounds} rounds of {STEPS} steps each, in turns, after 1 of each as warm-up; medians"},
    )
    ours = Ours(spec, data, asked.batch_size * STEPS)
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _ in range(asked.rounds + 1):
        for way in WAYS:
            found[way].append(measured(ours, way))
    for way, costs in found.items():
        wall, user, system, faults = (statistics.median(column) for column in zip(*costs[1:], strict=True))
        print(f"{way:<12} {wall:.3f} s a step; CPU seconds {user:.3f} user, {system:.3f} system; {faults:,.0f} faults")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--encoder", default="vgg11")
    parser.add_argument("--out-dim", type=int, default=65536)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()

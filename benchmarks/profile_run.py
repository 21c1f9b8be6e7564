"""Where the time of a run goes, part by part, beside the least that the device would need for it.

    python benchmarks/profile_run.py --data cifar10_jpeg --encoder vgg11 --samples 2048 --epochs 1
    python benchmarks/profile_run.py --synthetic 50000,10000 --encoder resnet18 --precision bf16 --epochs 3

It is the product's own run (``experiments.runner`` on a spec, in a temporary store), timed between its parts
(``timeline.py``), after a short one as warm-up. The floor of a part is the larger of its FLOPs and its bytes over
rates that are measured in the same process (``floors.py``). On a GPU the kernels of a short run are listed as well,
by torch.profiler. (Not called profile.py: Python's own cProfile imports a module of that name.)"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lib import measure
from lib.floors import Floor, Rates, count_floors, measure_rates
from lib.synthetic import NAME, write_synthetic
from lib.timeline import CHECKPOINTS, PROBES, STEP, Timeline, watched

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.options import Options, Silent, find_device
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

KERNELS = 12
"""The largest that are listed."""


@dataclass(frozen=True)
class Profile:
    """A run's time by part.

    Attributes:
        seconds: by part; they add up to the run.
        floors: the least that parts have to do.
        rates: of the device.
        evaluations: of the student that were timed.
        checkpoints: that were written.
        steps: optimiser steps.
    """

    seconds: Mapping[str, float]
    floors: Mapping[str, Floor]
    rates: Rates
    evaluations: int
    checkpoints: int
    steps: int

    def rows(self) -> list[dict[str, Any]]:
        """One a part, the longest first, then a step and the whole run."""
        parts = sorted(self.seconds, key=lambda part: -self.seconds[part])
        rows = [self._row(part, [part]) for part in parts]
        return [*rows, self._row("all of the step", STEP), self._row("the whole run", parts)]

    def _row(self, name: str, parts: Any) -> dict[str, Any]:
        seconds = sum(self.seconds.get(part, 0.0) for part in parts)
        floor = sum(
            self.floors[part].seconds(self.rates) for part in parts if part in self.floors.keys() & self.seconds.keys()
        )
        return {"part": name, "seconds": seconds, "floor": floor, "ratio": seconds / floor if floor else None}


def warm_up(spec: RunSpec, settings: Options) -> None:
    """Run two steps and two evaluations of the same shapes, so that nothing is timed that happens once a process."""
    with tempfile.TemporaryDirectory() as folder:
        run(_short(spec), replace(settings, store=Store(Path(folder)), observer=Silent()))


def profile(
    spec: RunSpec, data: Prepared, settings: Options, clock: Callable[[], float] = time.perf_counter
) -> Profile:
    """Run ``spec`` in a store of its own and time its parts.

    Args:
        spec: distils one view of every image from a constant teacher.
        data: its data set.
        settings: where and how; their store is not used.
        clock: of the CPU, see ``Timeline``.
    """
    device = find_device(settings.device)
    with tempfile.TemporaryDirectory() as folder:
        timeline = Timeline(device, clock)
        with watched(timeline) as attempts:
            run(spec, replace(settings, store=Store(Path(folder))))
    evaluations, checkpoints = timeline.entered[PROBES], timeline.entered[CHECKPOINTS]
    return Profile(
        timeline.seconds(),
        count_floors(spec, data.info, evaluations, checkpoints, spec.train.epochs),
        measure_rates(device, spec.precision, clock=clock),
        evaluations,
        checkpoints,
        attempts[-1].progress.step,
    )


def _short(spec: RunSpec) -> RunSpec:
    document = spec.model_dump(mode="json")
    document["train"]["epochs"] = 1
    document["data"]["samples"] = min(2 * spec.train.batch_size, spec.data.samples or 2 * spec.train.batch_size)
    return RunSpec.model_validate(document)


def largest_kernels(spec: RunSpec, settings: Options) -> list[dict[str, Any]]:
    """The kernels of a short run that took most of a GPU's time, by torch.profiler."""
    activity = torch.profiler.ProfilerActivity
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profiler:
            run(_short(spec), replace(settings, store=Store(Path(folder))))
            torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    found = [each for each in profiler.key_averages() if each.self_device_time_total]
    found.sort(key=lambda each: -each.self_device_time_total)
    busy = sum(each.self_device_time_total for each in found) / 1e6
    listed = [
        {"kernel": each.key[:80], "seconds": each.self_device_time_total / 1e6, "calls": each.count}
        for each in found[:KERNELS]
    ]
    return [{"kernel": "all, of the wall time of the short run", "seconds": busy, "of": wall}, *listed]


def table(found: Profile) -> str:
    """Markdown: a row a part."""
    lines = ["| part | seconds | share | floor | time over floor |", "| --- | ---: | ---: | ---: | ---: |"]
    whole = sum(found.seconds.values())
    for row in found.rows():
        floor, ratio = (f"{row['floor']:.3f}", f"{row['ratio']:.1f}") if row["ratio"] else ("-", "-")
        lines.append(f"| {row['part']} | {row['seconds']:.3f} | {row['seconds'] / whole:.1%} | {floor} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        if asked.synthetic:
            data = write_synthetic(Path(folder) / "data", *map(int, asked.synthetic.split(",")))
        else:
            data = measure.open_data(asked.data, asked.data_dir)
        spec = _spec(asked, data.info.name)
        settings = Options(
            store=Store(Path(folder)), data_dir=data.folder.parent, device=asked.device, threads=asked.threads,
            accelerate=asked.accelerate,
        )  # fmt: skip
        title = f"Parts of a run: {asked.encoder}, m = {asked.out_dim:,}, batch {asked.batch_size}, {asked.precision}"
        images = f"{asked.samples or data.info.train:,} training and {data.info.test:,} test images"
        facts = measure.print_header(
            title,
            {
                "data": f"{data.info.name}, {images}",
                "run": f"{asked.epochs} epochs; linear and 20-NN probe, raw and standardised, at start and every epoch",
                "accelerate": asked.accelerate,
                "seconds": "of the CPU" if asked.cpu_seconds else "on the wall",
                "repetitions": "n = 1, after 2 steps and 2 evaluations as warm-up",
            },
        )
        warm_up(spec, settings)
        found = profile(spec, data, settings, time.process_time if asked.cpu_seconds else time.perf_counter)
        print(table(found))
        print(f"\n{found.steps} steps, {found.evaluations} evaluations, {found.checkpoints} checkpoints")
        print(f"rates: {found.rates.flops / 1e12:.3f} TFLOP/s, {found.rates.traffic / 1e9:.1f} GB/s")
        kernels = largest_kernels(spec, settings) if find_device(asked.device).type == "cuda" else []
        for row in kernels:
            print(row)
    if asked.out:
        content = {"title": title, **facts, "rates": found.rates._asdict(), "parts": found.rows(), "kernels": kernels}
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


def _spec(asked: argparse.Namespace, data: str) -> RunSpec:
    return RunSpec.model_validate(
        {
            "data": {"name": data, "samples": asked.samples},
            "encoder": {"name": asked.encoder},
            "projector": {"out_dim": asked.out_dim},
            "train": {"batch_size": asked.batch_size, "epochs": asked.epochs},
            "probe": {"every": "1ep"},
            "precision": asked.precision,
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--synthetic", metavar=f"TRAIN,TEST ({NAME} images of 32 x 32, in place of --data)")
    parser.add_argument("--samples", type=int, help="training images; all by default")
    parser.add_argument("--encoder", default="vgg11")
    parser.add_argument("--out-dim", type=int, default=65536)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-seconds", action="store_true", help="for a busy machine, with --threads 1")
    parser.add_argument("--accelerate", default="auto", choices=["auto", "none", "compile", "graphs"])
    parser.add_argument("--out", type=Path, help="JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()

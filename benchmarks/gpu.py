"""All questions about speed on a GPU in one call of at most 8 minutes; one JSON.

    python benchmarks/gpu.py --data cifar10_jpeg --data-dir DIR --out gpu.json
    python benchmarks/gpu.py --synthetic --out gpu.json    # made-up images of CIFAR-10's size
    python benchmarks/gpu.py --synthetic --size small --only "full run" --out cpu.json    # VGG-11, for 2 CPU cores
    python benchmarks/gpu.py --size toy --out toy.json     # runs through on a CPU; its numbers mean nothing

Needs neither Ray nor FFCV. Every question is a function of a file of its own (``lib/gpu/``) and in ``QUESTIONS``; one
that fails says so in the JSON, and the others go on. The JSON is written after each, with the decisions that wait for
these answers, their thresholds, and what follows (``lib/gpu/decisions.py``).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lib import measure
from lib.gpu.bench import Bench, answered
from lib.gpu.checks import fidelity, waits
from lib.gpu.decisions import decisions
from lib.gpu.full import full_run
from lib.gpu.packing import packing, runs_together
from lib.gpu.steps import compiled_steps
from lib.gpu.wide import wide_output
from lib.synthetic import write_synthetic

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.options import find_device

QUESTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "full run": full_run,
    "packing": packing,
    "fidelity": fidelity,
    "runs together": runs_together,
    "wide output": wide_output,
    "waits": waits,
    "compiled steps": compiled_steps,
}
"""Two first, on which most decisions wait; what is asked late may be left out for want of time."""
SECONDS = 420.0
"""After which no question is begun: the last one needs the rest of the 8 minutes."""
IMAGES = {"full": (50_000, 10_000), "small": (2_048, 512), "toy": (96, 32)}
"""Training and test images of each size, where they are made up."""


def main() -> None:
    """Ask, print and write."""
    asked = _arguments()
    until = time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory() as folder:
        bench = _bench(asked, _data(asked, Path(folder)), Path(folder) / "runs", until)
        facts = measure.print_header(
            f"Speed on {bench.device}{' (toy size: numbers mean nothing)' if asked.size == 'toy' else ''}",
            {
                "data": f"{bench.data.info.name}, {bench.samples:,} and {bench.data.info.test:,} images",
                "full run": f"{bench.encoder}, m = {bench.out_dim:,}, batch {bench.batch}, every epoch probed",
            },
        )
        answers: dict[str, Any] = {"size": asked.size, "gpu": bench.device.type == "cuda", **facts}
        for name in asked.only or QUESTIONS:
            answers[name] = _answer(name, bench)
            print(f"## {name}\n{json.dumps(answers[name], indent=1)}", flush=True)
            answers["decisions"] = decisions(answers)
            asked.out.write_text(json.dumps(answers, indent=1) + "\n")
        print(f"## decisions\n{json.dumps(answers['decisions'], indent=1)}")


def _answer(name: str, bench: Bench) -> dict[str, Any]:
    if bench.left < 0:
        return {"left out": "for want of time"}
    begin = time.monotonic()
    found = answered(QUESTIONS[name], bench)
    return {**found, "took": time.monotonic() - begin}


def _data(asked: argparse.Namespace, folder: Path) -> Prepared:
    if asked.synthetic or asked.size == "toy":
        return write_synthetic(folder / "data", *IMAGES[asked.size])
    return measure.open_data(asked.data, asked.data_dir)


def _bench(asked: argparse.Namespace, data: Prepared, scratch: Path, until: float) -> Bench:
    device = find_device(asked.device)
    bench = functools.partial(Bench, device, data, scratch, until=until)
    if asked.size == "toy":
        torch.set_num_threads(1)
        tiny = "convnet_4_1"
        return bench(
            encoder=tiny, out_dim=64, batch=32, hidden=(16,), samples=data.info.train, epochs=2, small=(tiny,),
            workers=0, threads=1,
        )  # fmt: skip
    if asked.size == "small":
        return bench(
            encoder="vgg11", out_dim=65536, batch=256, hidden=(2048, 2048), samples=2048, epochs=2,
            small=("convnet_32_2",), workers=os.cpu_count() or 1, threads=None,
        )  # fmt: skip
    return bench(
        encoder="resnet18", out_dim=65536, batch=256, hidden=(2048, 2048), samples=data.info.train, epochs=3,
        small=("convnet_32_2", "resnet20"), workers=min(16, os.cpu_count() or 1), threads=None,
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10_jpeg", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--synthetic", action="store_true", help="made-up images in place of --data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, help="some of the questions")
    parser.add_argument("--size", choices=IMAGES, default="full", help="toy runs through on a CPU within a minute")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What an object store costs: requests and time of a sweep, beside the same sweep in a folder.

python benchmarks/object_store.py [--rounds 1] [--runs 12] [--epochs 30] [--data-dir FOLDER]

sweep: distillations of about 5 s each (digits) through `rt-scale sweep`, ABAB: in a folder, and on an S3 server (moto)
on this machine, over the wire, with an empty mirror. The server takes its share of the same processors, and counts the
requests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from lib import measure
from lib.counted import Counted, counted_server

from rt_scale.data.meta import default_data_dir
from rt_scale.store.objects.store import open_place

PROGRAM = str(Path(sys.executable).with_name("rt-scale"))
BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "train": {"epochs": 30, "batch_size": 128},
    "probe": {"every": "3ep", "epochs": 2, "standardized": False},
}
KINDS = ("PUT", "LIST", "GET", "HEAD", "DELETE", "POST")


def sweep(file: Path, place: str, data_dir: Path) -> tuple[float, list[float]]:
    """Seconds of the command, and of each run by its result."""
    command = [PROGRAM, "sweep", str(file), "--store", place, "--data-dir", str(data_dir), "--device", "cpu"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    store = open_place(place)
    store.refresh()
    return took, [found.seconds for run in store if (found := run.result()) is not None]


def in_words(requests: Counter[str], runs: int = 1) -> str:
    """Requests by kind, a run."""
    kinds = ", ".join(f"{requests[kind] / runs:.1f} {kind}" for kind in KINDS if requests[kind])
    return f"{requests.total() / runs:.1f} ({kinds})"


def compare(server: Counted, file: Path, runs: int, rounds: int, data_dir: Path, folder: Path) -> None:
    """The sweep in a folder and on the server, alternately."""
    times: dict[str, list[float]] = {"folder": [], "s3": []}
    for number in range(rounds):
        os.environ["RT_SCALE_MIRROR"] = str(folder / f"mirror-{number}")
        for where, place in {"folder": str(folder / f"store-{number}"), "s3": server.address(str(number))}.items():
            server.requests()
            took, own = sweep(file, place, data_dir)
            times[where].append(took)
            print(f"{where:<8} {took:7.1f} s, a run {statistics.median(own):.1f} s", flush=True)
            if where == "s3":
                print(f"{'':8} requests a run: {in_words(server.requests(), runs)}", flush=True)
    for where, seconds in times.items():
        print(f"{where:<8} {measure.summarise(seconds)}")
    ratios = [there / here for here, there in zip(times["folder"], times["s3"], strict=True)]
    print(f"ratio s3 / folder, median over rounds: {statistics.median(ratios):.2f}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=BASE["train"]["epochs"])
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    facts: dict[str, object] = {"sweep": f"{given.runs} runs of {given.epochs} epochs", "rounds": given.rounds}
    measure.print_header("A sweep on an object store, beside a folder", facts)
    base = BASE | {"train": BASE["train"] | {"epochs": given.epochs}}
    alphas = [round((number + 1) / given.runs, 4) for number in range(given.runs)]
    with tempfile.TemporaryDirectory(prefix="rt-scale-objects-") as folder, counted_server() as server:
        file = Path(folder) / "sweep.yaml"
        file.write_text(yaml.safe_dump({"name": "measured", "base": base, "axes": {"student.alpha": alphas}}))
        compare(server, file, given.runs, given.rounds, default_data_dir(given.data_dir), Path(folder))


if __name__ == "__main__":
    main()

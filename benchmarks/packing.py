"""Several students on one device: packed into one batched network, one after the other, or as several processes.

    python benchmarks/packing.py [--encoder convnet_32_2] [--together 1 2 4 8] [--data digits] [--device cpu]

The time of a student's step three ways. Packed and one after the other are measured as a trial measures them at its
start (`rt_scale.experiments.batched`), in turns. Several processes are what `launch.gpus: 0.25` gives, or several
trials on a CPU: as many as there are students, each of which trains its own, all at once, on the same device.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lib import measure

from rt_scale.data.meta import default_data_dir
from rt_scale.experiments.batched import WARM_UP, Bench
from rt_scale.experiments.options import Options, find_device
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store


class Place(NamedTuple):
    """Where students train, in values that another process can be given."""

    data_dir: Path
    device: str
    threads: int

    def bench(self, document: dict[str, Any]) -> Bench:
        """A batch, and students to train on it, with cached targets where they are constant."""
        store = Store(Path("unused"))  # nothing is kept
        settings = Options(
            store=store, data_dir=self.data_dir, device=self.device, threads=self.threads, cache_teacher=True
        )  # fmt: skip
        return Bench(RunSpec.model_validate(document), settings)


def processes(document: dict[str, Any], place: Place, count: int, seconds: float) -> float:
    """Seconds of wall time for a step, where ``count`` processes train one student each for ``seconds``."""
    context = multiprocessing.get_context("spawn")  # a process that has used a GPU cannot fork
    ready, said = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_train_alone, args=(document, place, ready, said, seconds)) for _ in range(count)]
    for worker in workers:
        worker.start()
    rate = sum(said.get(timeout=600) for _ in workers)
    for worker in workers:
        worker.join()
    return 1 / rate


def _train_alone(document: dict[str, Any], place: Place, ready: Any, said: Any, seconds: float) -> None:
    step = place.bench(document).step(1)
    for _ in range(WARM_UP):
        step()
    ready.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    said.put(steps / (time.perf_counter() - start))


def packed(document: dict[str, Any], place: Place, count: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a student's step packed and one by one, and the memory peak (GB, on a GPU) of both together."""
    bench = place.bench(document)
    alone, together = bench.step(1), bench.step(count)

    def timed(step: Callable[[], None], students: int) -> float:
        start = time.perf_counter()
        for _ in range(asked.steps):
            step()
        return (time.perf_counter() - start) / asked.steps / students

    ours, theirs = measure.alternate(lambda: timed(together, count), lambda: timed(alone, 1), asked.rounds)
    ratio = statistics.median(one / pack for pack, one in zip(ours, theirs, strict=True))
    sides = {"packed": measure.summarise(ours)._asdict(), "one_by_one": measure.summarise(theirs)._asdict()}
    peak = torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else None
    return {"students": count, **sides, "packed_ratio": ratio, "peak_gb": peak}


def compare(document: dict[str, Any], place: Place, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of students, printed as it is measured."""
    rows = []
    for count in asked.together:
        row = packed(document, place, count, asked)
        one, pack = (1000 * row[side]["median"] for side in ("one_by_one", "packed"))
        text = f"{count:3} students: one by one {one:9.2f} ms a step, packed {pack:9.2f} ({row['packed_ratio']:.2f} x)"
        if count <= asked.processes:
            row["processes"] = processes(document, place, count, asked.seconds)
            row["processes_ratio"] = row["one_by_one"]["median"] / row["processes"]
            text += f", {count} processes {1000 * row['processes']:9.2f} ({row['processes_ratio']:.2f} x)"
        print(text, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, and write JSON where that is asked for."""
    asked = _arguments()
    document = {
        "data": {"name": asked.data},
        "encoder": {"name": asked.encoder, "width": asked.width},
        "projector": {"hidden": asked.hidden, "out_dim": asked.out_dim},
        "train": {"batch_size": asked.batch_size},
        "precision": asked.precision,
    }
    measure.open_data(asked.data, asked.data_dir)
    place = Place(default_data_dir(asked.data_dir), str(find_device(asked.device)), asked.threads)
    torch.set_num_threads(asked.threads)
    title = f"{asked.encoder}, m = {asked.out_dim:,}, batch {asked.batch_size}, {asked.precision}, {place.device}"
    repetitions = f"{asked.rounds} rounds of {asked.steps} steps each way, in turns, 1 round as warm-up"
    measure.print_header(f"Students together: {title}", {"repetitions": repetitions})
    rows = compare(document, place, asked)
    print(f"load after: {os.getloadavg()[0]:.1f} (1 minute)")
    if asked.json:
        text = json.dumps({"title": title, "repetitions": repetitions, "rows": rows}, indent=1)
        asked.json.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--encoder", default="convnet_32_2")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of the encoder's channels")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512, 512])
    parser.add_argument("--out-dim", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of students")
    parser.add_argument("--processes", type=int, default=4, help="as many processes at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which processes train")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    return parser.parse_args()


if __name__ == "__main__":
    main()

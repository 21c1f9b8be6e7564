"""How long a store of many finished runs takes to look at in an object store, and in how many requests.

python benchmarks/object_store_many.py [--runs 10000] [--delay 0] [--folder FOLDER] [--unindexed]

A sweep of alphas and seeds is finished: one run is written through the store's own calls, and its objects stand for
those of all others, with their own specs and results. They are served by lib/small_s3.py, in a process on this machine.
With --unindexed first as drivers left the store that wrote no index; then with the index that a driver's end writes.
Each look once from a machine without a mirror, and once more from the same. Beside it the same commands on a folder:
the mirror. Seconds are of the wall, and of our processors, without the server's.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from lib import measure
from lib.counted import small_server
from object_store import BASE, PROGRAM, in_words
from store import METRICS

from rt_scale.scheduler.job import jobs_of
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.objects.bucket import Bucket
from rt_scale.store.objects.store import open_place
from rt_scale.store.results import AttemptRecord, DataRecord, Execution, RunRecord, RunResult
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import read_sweep
from rt_scale.tensorboard.writer import BoardWriter


def sweep_file(folder: Path, runs: int) -> Path:
    """A sweep of that many runs: alphas and ten seeds."""
    alphas = [round((number + 1) / (runs // 10), 6) for number in range(runs // 10)]
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump({"name": "many", "base": BASE, "axes": {"student.alpha": alphas}, "seeds": 10}))
    return file


def write_run(store: Store, spec: Any) -> None:
    """A finished run with three checkpoints, as a training of 130 steps leaves it."""
    run = store.run(spec)
    with run.acquire():
        run.write_spec(spec)
        data = DataRecord(name="digits", title="Digits", sha256="0" * 64)
        execution = Execution(device="cpu", threads=1, cache_teacher=True, channels_last=True, loader="resident")
        run.write_record(RunRecord(execution=execution, data=data, attempts=[AttemptRecord(host="here")]))
        table, board = MetricsTable(run.metrics_path), BoardWriter(run.path)
        board.hyperparameters(spec.canonical())
        for step in range(0, 140, 13):
            table.append(step, step / 13, METRICS)
            board.scalars(step, METRICS)
        table.flush()

        def write(folder: Path) -> None:
            for name in ("student.safetensors", "training.pt", "metrics.parquet", "spent.json"):
                (folder / name).write_bytes(b"0" * 500)

        for step in (0, 117, 130):
            run.save_checkpoint(step, write)
        run.complete(
            RunResult(name=run.name, last=METRICS, best={}, steps=130, epochs=10, seconds=5.0, attempts=1, data=data)
        )
        board.close("done")


def fill(folder: Path, file: Path) -> Path:
    """The file that fills the server."""
    empty = folder / "empty.json"
    empty.write_text(json.dumps({"template": {}, "runs": {}}))
    points = load_sweep(file)[1]
    with small_server(empty, 0.0) as server:
        os.environ["RT_SCALE_MIRROR"] = str(folder / "mirror-template")
        write_run(open_place(server.address("one")), points[0].spec)
        bucket = Bucket.open(server.address("one"))
        prefix = f"runs/{points[0].spec.name}/"
        found = {key.removeprefix(prefix): bucket.get(key) or b"" for key in bucket.entries("runs")}
    result = json.loads(found["result.json"])
    runs = {
        point.spec.name: {
            "spec.json": json.dumps(point.spec.canonical(), indent=2).encode(),
            "result.json": json.dumps(result | {"name": point.spec.name}, indent=2).encode(),
        }
        for point in points
    }

    def coded(files: dict[str, bytes]) -> dict[str, str]:
        return {key: base64.b64encode(data).decode() for key, data in files.items()}

    filling = folder / "filling.json"
    filling.write_text(json.dumps({"template": coded(found), "runs": {name: coded(own) for name, own in runs.items()}}))
    print(f"objects a run: {len(found)}", flush=True)
    return filling


def start(file: Path, place: str, runs: int) -> None:
    """What a driver does before it asks for a cluster: what is done already?"""
    store = open_place(place)
    store.check_writable()
    store.refresh(curves=False)
    jobs = jobs_of([read_sweep(file, (), store, most=None)])
    done = sum(store.status(name).state == "done" for name in jobs)
    if [len(jobs), done] != [runs, runs]:
        raise SystemExit(f"wrong: {done} of {len(jobs)} are done")


def used() -> float:
    """Processor seconds of this process and its children up to now."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def look(place: str, file: Path, runs: int, mirrors: Path, stage: str, requests: Callable[[], Counter[str]]) -> None:
    """Measure every way of looking at the store in ``place``, without a mirror and again."""

    def command(*given: str) -> Callable[[], object]:
        words = [PROGRAM, *given, "--store", place]
        return lambda: subprocess.run(words, check=True, capture_output=True)

    ways: dict[str, Callable[[], object]] = {
        "a driver's start": lambda: start(file, place, runs),
        "rt-scale status": command("status"),
        "rt-scale status FILE": command("status", str(file)),
        "rt-scale gc": command("gc"),
        "rt-scale report FILE": command("report", str(file)),
    }
    for name, work in ways.items():
        os.environ["RT_SCALE_MIRROR"] = str(mirrors / name.replace(" ", "-"))
        for how in ("no mirror", "again"):
            requests()
            began, before = time.perf_counter(), used()
            work()
            took, spent = time.perf_counter() - began, used() - before
            words = f"{took:6.2f} s, {spent:6.2f} s processor, requests {in_words(requests())}"
            print(f"{stage:<9} {name:<21} {how:<10} {words}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every request takes longer")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--unindexed", action="store_true")
    given = parser.parse_args()
    facts: dict[str, object] = {"runs": f"{given.runs:,} finished", "delay": f"{given.delay} s a request"}
    measure.print_header("A store of many runs in an object store (goal: under 10 s)", facts)
    with tempfile.TemporaryDirectory(prefix="rt-scale-many-", dir=given.folder) as made:
        folder = Path(made)
        file = sweep_file(folder, given.runs)
        with small_server(fill(folder, file), given.delay) as server:
            os.environ["RT_SCALE_MIRROR"] = str(folder / "mirror-driver")
            store = open_place(server.address("many"))
            points = load_sweep(file)[1]
            store.sweep("many").write(file.read_text(), [point.spec.name for point in points])
            if given.unindexed:
                look(server.address("many"), file, given.runs, folder / "none", "no index", server.requests)
            store.refresh()
            server.requests()
            began = time.perf_counter()
            store.tidy()
            print(f"writing the index: {time.perf_counter() - began:.2f} s, requests {in_words(server.requests())}")
            look(server.address("many"), file, given.runs, folder / "index", "index", server.requests)
            look(str(store.root), file, given.runs, folder, "folder", Counter)


if __name__ == "__main__":
    main()

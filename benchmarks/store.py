"""How long `status` and `gc` take in a store with very many finished runs.

python benchmarks/store.py [--runs 100000] [--rounds 3] [--folder FOLDER]

The store is made for this in a temporary folder (about 3 GB for 100,000 runs) and removed afterwards: one
run directory is written through the store's own calls, and its files are copied under other names. They have just
been written when they are looked at: what is measured is our work, not a disk's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lib import measure

from rt_scale.report.status import status_of_store
from rt_scale.spec.run import RunSpec
from rt_scale.store.gc import find_garbage
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import AttemptRecord, DataRecord, Execution, RunRecord, RunResult
from rt_scale.store.store import Store

PROGRAM = str(Path(sys.executable).with_name("rt-scale"))
METRICS = {f"probe/{role}/linear": 0.5 for role in ("input", "teacher", "student")}


def template(store: Store) -> Path:
    """A finished run's directory, with two checkpoints."""
    spec = RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}})
    run = store.run(spec)
    with run.acquire():
        run.write_spec(spec)
        data = DataRecord(name="digits", title="Digits", sha256="0" * 64)
        execution = Execution(device="cpu", threads=1, cache_teacher=True, channels_last=True, loader="resident")
        run.write_record(RunRecord(execution=execution, data=data, attempts=[AttemptRecord(host="here")]))
        table = MetricsTable(run.metrics_path)
        table.append(0, 0.0, METRICS)
        table.flush()
        for step in (0, 10):
            run.save_checkpoint(step, lambda folder: (folder / "student.safetensors").write_bytes(bytes(512)) and None)
        run.complete(
            RunResult(name=run.name, last=METRICS, best={}, steps=10, epochs=1, seconds=1.0, attempts=1, data=data)
        )
    return run.path


def fill(store: Store, runs: int) -> None:
    """Make a store of that many finished runs, which one sweep lists."""
    source = template(Store(store.root / "template"))
    folders = [str(path.relative_to(source)) for path in sorted(source.rglob("*")) if path.is_dir()]
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    shutil.rmtree(store.root / "template")
    names = [f"distill-{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(runs)]
    for name in names:
        run = f"{store.root}/runs/{name}"
        os.makedirs(run)
        for folder in folders:
            os.mkdir(f"{run}/{folder}")
        for file, data in files.items():
            with open(f"{run}/{file}", "wb", buffering=0) as opened:
                opened.write(data)
        os.utime(f"{run}/lease/1.json", (0, 0))
    store.sweep("many").write("", names)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def check_status(store: Store, runs: int) -> None:
    """What is timed must be right, too."""
    rows = status_of_store(store)
    if [len(rows), {(row.state, row.attempts) for row in rows}] != [runs, {("done", 1)}]:
        raise SystemExit(f"wrong: {len(rows)} rows, {json.dumps(rows[0].to_json())}")


def measure_store(runs: int, rounds: int, parent: Path | None) -> None:
    """Make a store, measure each way of looking at it after one as warm-up, print, and remove it.

    Args:
        runs: finished runs in the store.
        rounds: repetitions of each way.
        parent: folder in which it is made; None: the system's temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="rt-scale-store-", dir=parent) as folder:
        store = Store(Path(folder))
        print(f"{'making the store':<30} {seconds(lambda: fill(store, runs)):8.3f} s", flush=True)
        command = [PROGRAM, "status", "--store", folder]
        ways: dict[str, Callable[[], object]] = {
            "status_of_store": lambda: check_status(store, runs),
            "rt-scale status": lambda: subprocess.run(command, check=True, capture_output=True),
            "rt-scale status --json": lambda: subprocess.run([*command, "--json"], check=True, capture_output=True),
            "find_garbage": lambda: find_garbage(store),
        }
        for name, work in ways.items():
            work()
            print(f"{name:<30} {measure.summarise([seconds(work) for _ in range(rounds)])}", flush=True)


def main() -> None:
    """Measure a store of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the store is made [the system's temporary folder]")
    given = parser.parse_args()
    facts: dict[str, object] = {"runs": f"{given.runs:,} finished", "rounds": given.rounds}
    measure.print_header("A store of many runs (goal: status of 100,000 under 10 s)", facts)
    measure_store(given.runs, given.rounds, given.folder)


if __name__ == "__main__":
    main()

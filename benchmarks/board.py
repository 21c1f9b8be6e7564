"""How long TensorBoard takes to show a sweep of very many runs: means over seeds, all runs, and without our view.

python benchmarks/board.py [--architectures 13] [--seeds 5] [--points 40] [--rounds 3] [--keep FOLDER]

1,105 runs: 17 output dimensions x 13 architectures x 5 seeds, written through the store's own writers in a temporary
folder (about 100 MB), or kept in FOLDER for ``rt-scale board FOLDER/wide.yaml --store FOLDER/store``. Every way starts
a server of its own and ends it. Times are from the start of the process:

- address: it answers.
- charts: the view that a browser opens first has its data: every run is listed, and the first six charts have all of
  their curves.
- HParams: the table has a value in every row.

The files have just been written: what is measured is work, not a disk. The baseline, "all in one", is how the view
was before means and runs had folders of their own, which is also what --runs opens.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lib import measure

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.report import make_report
from rt_scale.scheduler.comparison import board_metrics, refresh_board
from rt_scale.spec.grid import Point
from rt_scale.spec.run import stream
from rt_scale.spec.sweep import SweepSpec, load_sweep
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import DataRecord, RunResult
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.tensorboard.writer import BoardWriter

PROGRAMS = Path(sys.executable).parent
ARCHITECTURES = ["vgg11", "vgg13", "vgg16", "vgg19", "resnet20", "resnet56", "resnet18", "resnet34", "resnet50"]
ARCHITECTURES += ["vit_tiny", "vit_small", "vit_medium", "vit_base"]
SHA256 = "0" * 64
CHARTS = 6
"""Charts that a browser asks for when it opens the page: those that are seen."""
LIMIT = 300.0
"""Seconds after which a server is given up."""


def write_file(file: Path, architectures: int, seeds: int) -> tuple[SweepSpec, list[Point]]:
    """A sweep file over output dimensions 2^0 to 2^16 and architectures; and what it stands for."""
    axes = {"encoder.name": ARCHITECTURES[:architectures], "projector.out_dim": {"pow2": [0, 16]}}
    base = {"data": {"name": "cifar10"}, "train": {"epochs": 40}, "probe": {"every": "1ep", "standardized": False}}
    file.write_text(yaml.safe_dump({"name": "wide", "base": base, "axes": axes, "seeds": seeds}, sort_keys=False))
    return load_sweep(file)


def write_run(point: Point, store: Store, points: int) -> None:
    """A finished run whose curves rise to where its output dimension lets them, with noise."""
    run, names = store.run(point.spec), board_metrics([point])
    architecture = ARCHITECTURES.index(point.spec.encoder.name)
    noise = np.random.default_rng(stream("benchmark", point.seed, architecture)).standard_normal((points, len(names)))
    height = min(1.0, point.spec.projector.out_dim / 256)
    curves = height * (1 - np.exp(-np.arange(points) / 8))[:, None] + 0.02 * noise
    with run.acquire(), closing(BoardWriter(run.path)) as board:
        run.write_spec(point.spec)
        board.hyperparameters({"encoder.name": point.spec.encoder.name})
        table = MetricsTable(run.metrics_path)
        for epoch, row in enumerate(curves):
            values = dict(zip(names, row.tolist(), strict=True))
            board.scalars(196 * epoch, values)
            table.append(196 * epoch, epoch, values)
        table.flush()
        board.close("done")
        run.complete(
            RunResult(
                name=run.name,
                last=table.last(),
                best=table.best("probe/student"),
                steps=196 * points,
                epochs=points,
                seconds=1.0,
                device_seconds={"cpu": 1.0},
                attempts=1,
                data=DataRecord(name="cifar10", title="cifar10", sha256=SHA256),
            )
        )


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """The address that a server tells, until it is interrupted."""
    quiet = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet)
    assert server.stdout is not None
    try:
        words = (word for line in server.stdout for word in line.split())
        yield next(word for word in words if word.startswith("http://"))
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def ask(address: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """What the server answers; None where it cannot yet."""
    request = urllib.request.Request(f"{address}data/{path}", body, {"Content-Type": kind} if body else {})
    try:
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)
    except urllib.error.HTTPError:
        return None


def charts_served(address: str, runs: int, tags: list[str], points: int) -> bool:
    """Whether the first charts have the whole curve of every run."""
    if len(ask(address, "runs")) < runs:
        return False
    questions = [{"plugin": "scalars", "tag": tag} for tag in sorted(tags)[:CHARTS]]
    body = urllib.parse.urlencode({"requests": json.dumps(questions)}).encode()
    answers = ask(address, "plugin/timeseries/timeSeries", body, "application/x-www-form-urlencoded") or []
    found = [answer.get("runToSeries", {}) for answer in answers]
    return bool(found) and all(
        len(series) >= runs and all(len(curve) == points for curve in series.values()) for series in found
    )


def table_served(address: str, groups: int, tag: str) -> bool:
    """Whether the HParams view has a value of a metric in every row."""
    experiment = ask(address, "plugin/hparams/experiment", b"{}") or {}
    columns = [{"hparam": each["name"]} for each in experiment.get("hparamInfos", ())]
    columns += [{"metric": each["name"]} for each in experiment.get("metricInfos", ())]
    question = {"colParams": columns, "startIndex": 0, "sliceSize": 10_000}
    question["allowedStatuses"] = [f"STATUS_{word}" for word in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    rows = (ask(address, "plugin/hparams/session_groups", json.dumps(question).encode()) or {}).get("sessionGroups", [])
    return sum(any(value["name"]["tag"] == tag for value in row["metricValues"]) for row in rows) == groups


def opened(command: list[str], runs: int, groups: int, tags: list[str], points: int) -> tuple[float, float, float]:
    """Seconds from the start of a server until its address, its charts and its table are there."""
    start = time.perf_counter()
    with running(command) as address:
        times = [time.perf_counter() - start]
        charts = functools.partial(charts_served, address, runs, tags, points)
        table = functools.partial(table_served, address, groups, tags[0])
        for served in (charts, table):
            while not served():
                if time.perf_counter() - start > LIMIT:
                    raise SystemExit(f"{' '.join(command)}: not served after {LIMIT:.0f} s")
                time.sleep(0.05)
            times.append(time.perf_counter() - start)
    return times[0], times[1], times[2]


def measure_servers(file: Path, store: Path, points: list[Point], length: int, rounds: int) -> None:
    """Open every way in turn, after one of each as warm-up, and print a line for each."""
    runs, groups = len(points), len({point.configuration for point in points})
    tags = board_metrics(points)
    board = [str(PROGRAMS / "rt-scale"), "board", "--store", str(store), "--port", "0"]
    plain = [str(PROGRAMS / "tensorboard"), "--port", "0", "--logdir", str(store / "runs")]
    ways = {
        "means over seeds (rt-scale board)": ([*board, str(file)], groups, groups),
        "all in one (rt-scale board --runs)": ([*board, str(file), "--runs"], runs + groups, groups),
        "run folders (tensorboard --logdir)": (plain, runs, runs),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (command, listed, rows) in ways.items():
            times = opened(command, listed, rows, tags, length)
            if number:
                found[name].append(times)
    for name, rounds_found in found.items():
        for stage, times in zip(("address", "charts", "HParams"), zip(*rounds_found, strict=True), strict=True):
            print(f"{name:<36} {stage:<9} {measure.summarise(list(times))}", flush=True)
    baseline, ours = (np.median([times[1] for times in found[name]]) for name in list(ways)[1::-1])
    print(f"{'charts: all in one / means over seeds':<46} {baseline / ours:8.2f}")


def measure_view(sweep: SweepSpec, points: list[Point], store: Store) -> None:
    """Print how long the views and the report take to be made, and to be looked at again."""
    loaded = SweepRuns(sweep, points, store)
    work: dict[str, Callable[[], object]] = {
        "view of means": lambda: refresh_board([loaded]),
        "view of runs, means being there": lambda: refresh_board([loaded], every_run=True),
        "report, for its figures": lambda: make_report([loaded], "last", DataHere(Path("data"))),
    }
    for name, make in work.items():
        print(f"{name:<46} {seconds(make):8.3f} s")
        if "view" in name:
            print(f"{'  unchanged, as every 5 s':<46} {seconds(make):8.3f} s", flush=True)


def main() -> None:
    """Write the sweep, measure, print, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=len(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=40, help="of every curve [40]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder in which the sweep is made, and left")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rt-scale-board-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sweep, points = write_file(folder / "wide.yaml", given.architectures, given.seeds)
        facts: dict[str, object] = {
            "runs": f"{len(points):,} in {len({point.configuration for point in points})} configurations",
            "curves": f"{len(board_metrics(points))} a run, of {given.points} points",
            "rounds": f"{given.rounds}, after 1 as warm-up; medians (fastest to slowest)",
        }
        measure.print_header("TensorBoard on a sweep of many runs", facts)
        store = Store(folder / "store")
        for point in points:
            if store.run(point.spec).result() is None:
                write_run(point, store, given.points)
        measure_view(sweep, points, store)
        measure_servers(folder / "wide.yaml", store.root, points, given.points, given.rounds)


if __name__ == "__main__":
    main()

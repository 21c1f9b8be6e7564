"""What a sweep costs beside its runs: overhead a run, expansion of a large grid, status of a large store.

python benchmarks/sweep.py [--only overhead expansion status] [--rounds 3] [--runs 64] [--baseline 8] [--slots 2]
    [--specs 100000] [--stored 100000] [--data-dir FOLDER] [--folder FOLDER]

overhead: distillations of about a second each (digits, a tiny network; the number of epochs is found first) through
rt_scale's run_sweeps, and fewer of the same as plain Ray Tune function trials, a process each. The overhead of a run is
wall x slots / runs - its own seconds: in every slot, from the first result there to the last, over the results in
between. A run's own seconds are those of its result.json, which begin when its data is open and end when its last
numbers are known: its lease, its spec, opening the prepared set, its last files and all of Ray count as overhead, in
both ways alike.
expansion: a sweep file of alpha x output dimension x learning rate x 10 seeds, read, validated, hashed and labelled.
status: benchmarks/store.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lib import measure
from store import measure_store, seconds

from rt_scale.data.meta import default_data_dir
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.ray_backend.sweep import run_sweeps
from rt_scale.scheduler.job import Where
from rt_scale.spec.explore import MOST_RUNS
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec, load_sweep
from rt_scale.store.lease import latest_attempt
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

# After rt_scale's own launcher, which sets what Ray reads when it is imported.
import ray  # isort: skip
from ray import tune  # isort: skip

TINY: dict[str, Any] = {
    "data": {"name": "digits", "samples": 256},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 64},
    "train": {"epochs": 1, "batch_size": 64},
    "probe": {"every": None, "knn": 5, "epochs": 1},
}


class Silent:
    """A view that shows nothing (rt_scale.progress.terminal.View)."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: None


class Ran(NamedTuple):
    """A finished run: process, when it began and ended (seconds since 1970), and its own seconds."""

    process: int
    began: float
    ended: float
    own: float


class Queue(NamedTuple):
    """How a queue of runs went.

    Attributes:
        overhead: seconds a run, beside its own.
        own: median seconds of a run.
        first: seconds until the first run of every slot was through.
        last: seconds from the end of the last run until the call returned.
    """

    overhead: float
    own: float
    first: float
    last: float


def went(start: float, points: Sequence[Point], store: Store, slots: int) -> Queue:
    """How the queue of ``points`` went that began at ``start`` and is through now."""
    through, queues = time.time(), list[list[Ran]]()
    for run_ in sorted((ran(point, store) for point in points), key=lambda each: each.began):
        queue = next((each for each in queues if each[-1].process == run_.process), None)
        if queue is None and len(queues) == slots:
            queue = min(queues, key=lambda each: each[-1].ended)  # a new process in the slot that was free first
        if queue is None:
            queues.append([run_])
        else:
            queue.append(run_)
    later = [run_.own for queue in queues for run_ in queue[1:]]
    busy = sum(queue[-1].ended - queue[0].ended for queue in queues)
    first, last = (max(queue[place].ended for queue in queues) for place in (0, -1))
    return Queue(busy / len(later) - statistics.mean(later), statistics.median(later), first - start, through - last)


def ran(point: Point, store: Store) -> Ran:
    """What the store tells of a run; the end of the process where it has no result."""
    run_dir = store.run(point.spec)
    result, attempt = run_dir.result(), latest_attempt(run_dir.path)
    if result is None or attempt is None or attempt.owner is None:
        raise SystemExit(f"{point.label} has no result: {run_dir.failure()}")
    ended = (run_dir.path / RESULT).stat().st_mtime
    return Ran(attempt.owner.pid, attempt.owner.acquired, ended, result.seconds)


def ours(sweep: SweepSpec, data_dir: Path, slots: int) -> Queue:
    """The sweep through ``run_sweeps``, in a store of its own."""
    points = expand(sweep)
    with tempfile.TemporaryDirectory(prefix="rt-scale-sweep-") as folder:
        start, store = time.time(), Store(Path(folder))
        where = Where(store, data_dir, "cpu", "local", concurrency=slots)
        run_sweeps([SweepRuns(sweep, points, store)], where, lambda total, done: nullcontext(Silent()))
        return went(start, points, store, slots)


def trial(config: Mapping[str, Any]) -> None:
    """A run as whoever uses Ray Tune writes it."""
    settings = Options(store=Store(Path(config["store"])), data_dir=Path(config["data_dir"]), device="cpu", threads=1)
    run(RunSpec.model_validate(config["spec"]), settings)


def plain(sweep: SweepSpec, data_dir: Path, slots: int) -> Queue:
    """The sweep as plain Ray Tune function trials, each in a process of its own."""
    points = expand(sweep)
    with tempfile.TemporaryDirectory(prefix="rt-scale-plain-") as folder:
        start, store = time.time(), Store(Path(folder) / "store")
        told = [
            {"spec": point.spec.model_dump(mode="json"), "store": str(store.root), "data_dir": str(data_dir)}
            for point in points
        ]
        ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            with redirect_stdout(StringIO()):  # Tune prints a line a trial, whatever it is asked for
                tune.Tuner(
                    lambda config: trial(config["run"]),
                    param_space={"run": tune.grid_search(told)},
                    tune_config=tune.TuneConfig(max_concurrent_trials=slots),
                    run_config=tune.RunConfig(storage_path=folder, verbose=0),
                ).fit()
        finally:
            ray.shutdown()
        return went(start, points, store, slots)


def a_second_each(data_dir: Path) -> dict[str, Any]:
    """The tiny spec with as many epochs as take about a second, in a process that has computed before."""

    def took(epochs: int) -> float:
        spec = {**TINY, "train": {**TINY["train"], "epochs": epochs}}
        with tempfile.TemporaryDirectory() as folder:
            config = {"spec": spec, "store": folder, "data_dir": str(data_dir)}
            return seconds(partial(trial, config))

    took(2)
    base, more = (min(took(epochs) for _ in range(5)) for epochs in (1, 21))
    epochs = max(1, round((1 - base) / ((more - base) / 20)))
    print(f"{'a run of ' + str(epochs) + ' epochs, this process':<42} {took(epochs):8.3f} s", flush=True)
    return {**TINY, "train": {**TINY["train"], "epochs": epochs}}


def measure_overhead(runs: int, baseline: int, rounds: int, slots: int, data_dir: Path) -> None:
    """Both ways in turns, as often as ``rounds``; each with the first run of every slot as warm-up."""
    base = a_second_each(data_dir)
    ways: dict[str, tuple[Callable[[SweepSpec, Path, int], Queue], int]] = {
        f"rt-scale, {runs} runs": (ours, runs),
        f"plain Ray Tune, {baseline} runs": (plain, baseline),
    }
    taken: dict[str, list[Queue]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, number) in ways.items():
            sweep = SweepSpec(name="overhead", base=base, seeds=number)
            taken[name].append(way(sweep, data_dir, slots))
    for name, queues in taken.items():
        for what in ("overhead", "own", "first", "last"):
            summary = measure.summarise([getattr(queue, what) for queue in queues])
            print(f"{name + ': ' + what:<42} {summary}", flush=True)


def measure_expansion(specs: int, rounds: int) -> None:
    """Reading, validating, hashing and labelling a sweep file, after a small one as warm-up."""

    def expansion(learning_rates: int) -> tuple[float, float]:
        axes = {
            "student.alpha": {"linspace": [0, 1, 40]},
            "projector.out_dim": {"pow2": [0, 16]},
            "train.optimizer.lr": {"logspace": [-5, -2, learning_rates]},
        }
        base = {**TINY, "encoder": {"name": "vgg11"}, "data": {"name": "cifar10"}}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sweep.yaml"
            file.write_text(yaml.safe_dump({"name": "large", "base": base, "axes": axes, "seeds": 10}))
            start, computed = time.perf_counter(), time.process_time()
            points = load_sweep(file, limit=MOST_RUNS)[1]
            labels = {point.label for point in points}
            taken = time.perf_counter() - start, time.process_time() - computed
        if len(labels) != 6800 * learning_rates:
            raise SystemExit(f"wrong: {len(labels)} labels")
        return taken

    expansion(2)
    learning_rates = max(2, round(specs / 6800))
    walls, computed = zip(*(expansion(learning_rates) for _ in range(rounds)), strict=True)
    what = f"expansion of {6800 * learning_rates:,} specs"
    for name, taken in ((what, walls), (f"{what}: CPU", computed)):
        print(f"{name:<42} {measure.summarise(list(taken))}", flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["overhead", "expansion", "status"])
    for name, number in (("rounds", 3), ("runs", 64), ("baseline", 8), ("slots", 2)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name in ("specs", "stored"):
        parser.add_argument(f"--{name}", type=int, default=100_000)
    parser.add_argument("--data-dir", type=Path, help="where prepared data is [RT_SCALE_DATA, the user's cache]")
    parser.add_argument("--folder", type=Path, help="where the large store is made [the system's temporary folder]")
    given = parser.parse_args()
    goals = "overhead under 0.5 s a run, 100,000 specs and status of 100,000 runs under 10 s each"
    facts = {"goals": goals, "ray": ray.__version__, "slots": given.slots, "rounds": given.rounds}
    measure.print_header("A sweep beside its runs", facts)
    data_dir = default_data_dir(given.data_dir)
    questions: dict[str, Callable[[], None]] = {
        "overhead": lambda: measure_overhead(given.runs, given.baseline, given.rounds, given.slots, data_dir),
        "expansion": lambda: measure_expansion(given.specs, given.rounds),
        "status": lambda: measure_store(given.stored, given.rounds, given.folder),
    }
    for name in given.only or questions:
        questions[name]()


if __name__ == "__main__":
    main()

"""What a sweep costs beside its runs: overhead a run, expansion of a large grid, status of a large store.

python benchmarks/sweep.py [--only overhead expansion status] [--rounds 3] [--runs 64] [--baseline 8] [--slots 2]
    [--specs 100000] [--stored 100000] [--data-dir FOLDER] [--folder FOLDER]

overhead: distillations of about a second each (digits, a tiny network; the number of epochs is found first) through
rt_scale's run_sweep, and fewer of the same as plain Ray Tune function trials, a process each. The overhead of a run is
wall x slots / runs - its own seconds, both after the first run of each slot is through. A run's own seconds are those
of its result.json, which begin when its data is open and end when its last numbers are known: its lease, its spec,
reading the prepared set, its last files and everything of Ray's count as overhead, in both ways alike.
expansion: a sweep file of alpha x output dimension x learning rate x 10 seeds, read, validated, hashed and labelled.
status: benchmarks/store.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import measure
import yaml
from store import measure_store, seconds

from rt_scale.data.places import default_data_dir
from rt_scale.experiments.run import run
from rt_scale.experiments.settings import Settings
from rt_scale.launch.sweep import run_sweep
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import Point, SweepSpec, expand, load_sweep
from rt_scale.store.store import Store

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


@dataclass
class Finished:
    """A view that notes when runs ended (rt_scale.launch.tune.View)."""

    times: list[float] = field(default_factory=list)

    def running(self, label: str, result: Mapping[str, Any]) -> None:
        """Not shown."""

    def finished(self, label: str, error: str | None) -> None:
        """Note the time."""
        if error is not None:
            raise SystemExit(f"{label} failed: {error}")
        self.times.append(time.perf_counter())


@dataclass(frozen=True)
class Queue:
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


def in_the_middle(start: float, times: Sequence[float], own: Sequence[float], slots: int) -> Queue:
    """How a queue went that began at ``start``; runs ended at ``times`` and took ``own`` seconds themselves."""
    ended = sorted(times)
    wall = ended[-1] - ended[slots - 1]
    overhead = wall * slots / (len(ended) - slots) - statistics.mean(own)
    return Queue(overhead, statistics.median(own), ended[slots - 1] - start, time.perf_counter() - ended[-1])


def ours(sweep: SweepSpec, data_dir: Path, slots: int) -> Queue:
    """The sweep through ``run_sweep``, in a store of its own."""
    points, view = expand(sweep), Finished()

    @contextmanager
    def shown(total: int, done: int) -> Iterator[Finished]:
        yield view

    with tempfile.TemporaryDirectory(prefix="rt-scale-sweep-") as folder:
        start, store = time.perf_counter(), Store(Path(folder))
        outcome = run_sweep(
            sweep, points, "", store=store, data_dir=data_dir, device="cpu", concurrency=slots, view=shown
        )
        if outcome.failed or len(view.times) != len(points):
            raise SystemExit(f"{len(outcome.failed)} runs failed, {len(view.times)} told of: {outcome.failed}")
        return in_the_middle(start, view.times, own_seconds(points, store), slots)


def trial(config: Mapping[str, Any]) -> None:
    """A run as whoever uses Ray Tune writes it."""
    settings = Settings(store=Store(Path(config["store"])), data_dir=Path(config["data_dir"]), device="cpu", threads=1)
    run(RunSpec.model_validate(config["spec"]), settings)


class Ends(tune.Callback):  # type: ignore[misc]
    """Notes when trials ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def plain(sweep: SweepSpec, data_dir: Path, slots: int) -> Queue:
    """The sweep as plain Ray Tune function trials, each in a process of its own."""
    points, ends = expand(sweep), Ends()
    with tempfile.TemporaryDirectory(prefix="rt-scale-plain-") as folder:
        start, store = time.perf_counter(), Store(Path(folder) / "store")
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
                    run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[ends]),
                ).fit()
        finally:
            ray.shutdown()
        return in_the_middle(start, ends.times, own_seconds(points, store), slots)


def own_seconds(points: Sequence[Point], store: Store) -> list[float]:
    """Seconds of every run by its result."""
    results = [store.run(point.spec).result() for point in points]
    if None in results:
        raise SystemExit(f"{results.count(None)} runs have no result")
    return [float(result["seconds"]) for result in results if result is not None]


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

    def expansion(learning_rates: int) -> float:
        axes = {
            "student.alpha": {"linspace": [0, 1, 40]},
            "projector.out_dim": {"pow2": [0, 16]},
            "train.optimizer.lr": {"logspace": [-5, -2, learning_rates]},
        }
        base = {**TINY, "encoder": {"name": "vgg11"}, "data": {"name": "cifar10"}}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sweep.yaml"
            file.write_text(yaml.safe_dump({"name": "large", "base": base, "axes": axes, "seeds": 10}))
            start = time.perf_counter()
            points = load_sweep(file, limit=None)[1]
            labels = {point.label for point in points}
            taken = time.perf_counter() - start
        if len(labels) != 6800 * learning_rates:
            raise SystemExit(f"wrong: {len(labels)} labels")
        return taken

    expansion(2)
    learning_rates = max(2, round(specs / 6800))
    summary = measure.summarise([expansion(learning_rates) for _ in range(rounds)])
    print(f"{f'expansion of {6800 * learning_rates:,} specs':<42} {summary}", flush=True)


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
    facts: dict[str, object] = {"goals": goals, "ray": ray.__version__, "slots": given.slots, "rounds": given.rounds}
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

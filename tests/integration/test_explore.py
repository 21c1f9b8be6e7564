"""Exploration with real systems: through a local Ray the worse runs end early by themselves; what runs really log."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.ray_backend.cluster import connect
from rt_scale.ray_backend.explore import Rule
from rt_scale.ray_backend.trial import Measurement, TrialReport
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import EarlyStops

METRIC = "probe/student/linear"
EPOCHS, GRACE = 6, 2
ORDER = (2, 3, 0, 1)
"""How good each run is, one after the other: the better half first, so that the rest is compared with it."""


def name(place: int) -> str:
    return f"distill-{place:016x}"


def trial(config: Mapping[str, Any]) -> None:
    """A run in miniature: its lease, its epochs, its reports, and the question whether to go on."""
    store, explore = Store(Path(config["store"])), ExploreSpec.model_validate(config["explore"])
    run, stopped = name(config["place"]), EarlyStops(explore, store.sweep("s"))
    epoch = 0
    with store.run(run).acquire():
        while epoch < EPOCHS and run not in stopped.runs():
            epoch += 1
            found = Measurement("s", run, epoch * 5, epoch, epoch == EPOCHS, config["place"] + epoch / 10)
            tune.report({"report": TrialReport(measured=found).model_dump_json(), "state": "running"})
    state = "stopped" if run in stopped.runs() else "done"
    tune.report({"state": state, "epoch": epoch, "process": os.getpid()})


class Heard(tune.Callback):  # type: ignore[misc]
    """Judges each run, and notes what it said last, and how its lease was then."""

    def __init__(self, store: Store, rule: Rule) -> None:
        self.store, self.rule = store, rule
        self.last: dict[int, tuple[str, int]] = {}
        self.leases: set[tuple[str, str | None]] = set()
        self.processes: set[int] = set()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if result["state"] == "running":
            measured = TrialReport.model_validate_json(result["report"]).measured
            assert measured is not None
            self.rule.hear(measured)
        else:
            place = trial.config["place"]
            status = self.store.run(name(place)).status()
            self.last[place] = (result["state"], result["epoch"])
            self.leases.add((status.state, status.owner))
            self.processes.add(result["process"])

    def __getstate__(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connect("local"):
        yield


@pytest.mark.parametrize(
    "rule",
    [
        {"asha": {"grace": f"{GRACE}ep", "reduction": 2}},
        {"median": {"grace": f"{GRACE}ep", "min_runs": 2}},
    ],
    ids=["asha", "median"],
)
def test_the_worse_half_ends_early_and_one_process_does_it_all(
    tmp_path: Path, ray_here: None, rule: dict[str, Any]
) -> None:
    section = {"metric": METRIC, "mode": "max", "stop": rule}
    explore, store = ExploreSpec.model_validate(section), Store(tmp_path / "store")
    stopped = EarlyStops(explore, store.sweep("s"))
    heard = Heard(store, Rule(explore, stopped, lambda run, why: None))
    space = {"place": tune.grid_search(list(ORDER)), "store": str(store.root), "explore": section}
    tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[heard]),
    ).fit()
    whole, early = ("done", EPOCHS), ("stopped", GRACE)
    assert heard.last == {2: whole, 3: whole, 0: early, 1: early}
    assert {key: (each.step, each.value) for key, each in stopped.runs().items()} == {
        name(0): (10, 0.2),
        name(1): (10, 1.2),
    }
    assert heard.leases == {("partial", None)}
    assert len(heard.processes) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"probe": {"statistics": True, "standardized": False, "epochs": 1}},
        {"kind": "supervise", "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 10}},
    ],
    ids=["distill", "statistics", "supervise"],
)
def test_a_run_logs_what_its_spec_says(tmp_path: Path, data_dir: Path, changes: dict[str, Any]) -> None:
    base: dict[str, Any] = {
        "data": {"name": "digits", "samples": 100},
        "encoder": {"name": "convnet_8_2"},
        "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 16},
        "train": {"epochs": 2},
        "probe": {"every": "2ep", "epochs": 1, "also": ["digits"]},
    }
    spec, store = RunSpec.model_validate({**base, **changes}), Store(tmp_path)
    run(spec, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    rows = read_metrics(store.run(spec).metrics_path).to_pylist()
    at_start = {row["name"] for row in rows if row["step"] == 0}
    assert {row["name"]: "probe" if row["name"] in at_start else "epoch" for row in rows} == spec.logged

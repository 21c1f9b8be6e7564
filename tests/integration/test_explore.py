"""Exploration through a real local Ray: the worse runs end early, and end themselves; and what real runs log."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.run import run
from rt_scale.experiments.settings import Settings
from rt_scale.launch.cluster import local_ray
from rt_scale.launch.explore import build_scheduler
from rt_scale.launch.stopped import StoppedRuns, Watch
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.logged import logged_metrics
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store

from ray import tune  # isort: skip

METRIC = "probe/student/linear"
EPOCHS = 6
GRACE = 2
GOOD = (3, 2)
"""The order of the runs: the good ones come first, so that every later one is compared with them."""
ORDER = (*GOOD, 1, 0)


def trial(config: Mapping[str, Any]) -> None:
    """A run in miniature: its lease, its loop, its reports, and the same question after every step."""
    store, explore = Store(Path(config["store"])), ExploreSpec.model_validate(config["explore"])
    name = f"distill-{config['place']:016x}"
    watch = Watch(explore, store.sweep("s").path, name)
    with store.run(name).acquire():
        epoch = 0
        while epoch < EPOCHS and not watch():
            epoch += 1
            values = {METRIC: config["place"] + epoch / 10}
            tune.report({"state": "running"} | watch.report(epoch * 5, EPOCHS * 5, epoch, values))
            watch.look()
    tune.report({"state": "stopped" if watch() else "done", "epoch": epoch, "process": os.getpid()})


class Heard(tune.Callback):  # type: ignore[misc]
    """What each run said last."""

    def __init__(self) -> None:
        self.last: dict[int, dict[str, Any]] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.last[trial.config["place"]] = result

    def __getstate__(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_the_worse_half_ends_early_and_its_processes_are_used_again(tmp_path: Path, rule: str) -> None:
    options = {"asha": {"grace": f"{GRACE}ep", "reduction": 2}, "median": {"grace": f"{GRACE}ep", "min_runs": 1}}
    section = {"metric": METRIC, "mode": "max", "stop": {rule: options[rule]}}
    explore, store = ExploreSpec.model_validate(section), Store(tmp_path / "store")
    stopped, heard = StoppedRuns(explore, store.sweep("s").path), Heard()
    with local_ray():
        tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={
                "place": tune.grid_search(list(ORDER)),
                "store": str(store.root),
                "explore": section,
            },
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=1, scheduler=build_scheduler(explore, stopped)
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[heard]),
        ).fit()
        states = {place: store.run(f"distill-{place:016x}").status() for place in ORDER}
    ended = {place: (said["state"], said["epoch"]) for place, said in heard.last.items()}
    assert {place for place, (state, _) in ended.items() if state == "stopped"} == set(ORDER) - set(GOOD) | (
        {2} if rule == "median" else {2}
    )
    assert ended
    assert states
    assert time
    assert read_metrics
    assert run
    assert Settings
    assert logged_metrics
    assert RunSpec

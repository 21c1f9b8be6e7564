"""How often checkpoints are written: against files as they are written, and against the rule that a run goes by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.experiments.context import CHECKPOINT_RATE, Context
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.plan.checkpoint_times import between_checkpoints, checkpoint_bytes
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

BASE: dict[str, Any] = {
    "data": {"name": "digits", "samples": 64},
    "encoder": {"name": "convnet_8_1", "norm": "batch"},
    "projector": {"hidden": [64], "bottleneck": 32, "out_dim": 512},
    "train": {"epochs": 1, "batch_size": 32},
    "probe": {"every": None, "linear": False, "knn": 5},
}


def spec(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({**BASE, **sections})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"teacher": {"update": "ema"}},
        {"train": {**BASE["train"], "optimizer": {"name": "sgd", "lr": 0.1}}},
        {"train": {**BASE["train"], "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}},
        {"precision": "float64"},
    ],
)
def test_the_size_is_that_of_the_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path / "store")
    wanted = spec(**changes)
    run(wanted, Options(store=store, data_dir=tmp_path / "data", threads=1, device="cpu"))
    files = store.run(wanted).checkpoints.read(2, lambda folder: sum(each.stat().st_size for each in folder.iterdir()))
    counted = checkpoint_bytes(wanted, DATASETS["digits"])
    # Beside weights and moments there are states of random generators, metrics and the files' own headers.
    assert 0 < files - counted < 40_000
    assert counted > 80_000


@pytest.mark.parametrize(
    ("every", "epoch", "size", "expected"),
    [
        (None, 12.0, 0, 36.0),  # 30 s between two, at ends of epochs
        (None, 40.0, 0, 40.0),
        (None, 0.01, 0, 1.0),  # the end of the run is one
        (None, 0.01, 10.0, 1.0),
        ("2ep", 12.0, 0, 24.0),  # whenever it is probed
        ("5ep", 12.0, 0, 36.0),
        ("2ep", 1.0, 10.0, 10.0),  # 10 s of writing at that rate
        ("2ep", 1.0, 9.0, 10.0),  # at the first probing after them
        ("2ep", 1.0, 100.0, 30.0),  # but after 30 s at any end of an epoch
        ("15it", 2.0, 0, 6.0),  # every third of its probings is at the end of an epoch of 10 steps
        ("5it", 2.0, 0, 2.0),
    ],
)
def test_they_come_as_the_rule_says(every: str | None, epoch: float, size: float, expected: float) -> None:
    wanted = spec(probe={"every": every}, train={"epochs": 100})
    found = between_checkpoints(wanted, epoch=epoch, epoch_steps=10, size=size * CHECKPOINT_RATE)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("every", "epoch"), [(1, 0.7), (2, 3.0), (3, 11.0), (7, 2.0), (4, 31.0)])
@pytest.mark.parametrize("size", [0.0, 5.0, 25.0, 60.0])
def test_a_run_that_asks_after_every_epoch_gets_them_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, epoch: float, size: float
) -> None:
    now = 0.0
    monkeypatch.setattr("rt_scale.experiments.context.time.monotonic", lambda: now)
    context = Context.__new__(Context)
    context.checkpoint_seconds, context._last_checkpoint = Options.checkpoint_seconds, 0.0
    context._checkpoint_bytes = int(size * CHECKPOINT_RATE)
    for number in range(1, 200):
        now = number * epoch
        if context.checkpoint_due(evaluated=number % every == 0):
            break
    wanted = spec(probe={"every": f"{every}ep"}, train={"epochs": 200})
    assert now == between_checkpoints(wanted, epoch=epoch, epoch_steps=10, size=size * CHECKPOINT_RATE)

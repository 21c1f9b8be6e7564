"""How long runs are, in steps and evaluations."""

from __future__ import annotations

from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.plan.queue import evaluations, training_steps
from rt_scale.spec.run import RunSpec

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 2}}


def test_lengths_are_those_of_a_run() -> None:
    spec = RunSpec.model_validate({**BASE, "train": {"epochs": 7, "batch_size": 100}, "probe": {"every": "2ep"}})
    images = DATASETS["digits"].train
    assert training_steps(spec, images) == (105, 15)
    assert evaluations(spec, images) == 1 + 3 + 1
    subset = RunSpec.model_validate({**BASE, "data": {"name": "digits", "samples": 256}, "probe": {"every": None}})
    assert training_steps(subset, images) == (2, 1)
    assert evaluations(subset, images) == 2
    by_step = RunSpec.model_validate({**BASE, "probe": {"every": "5it"}})
    assert evaluations(by_step, images) == 1 + 12 // 5 + 1

"""Every field of a spec decides something: a run that differs in it alone gives other numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.prepare import prepare
from rt_scale.experiments.run import run
from rt_scale.experiments.settings import Settings
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import _dotted_fields
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store

SGD = {"train.optimizer": {"name": "sgd", "lr": 0.1}}

SHARED_VIT = {"encoder": {"name": "vit_tiny_shared", "width": 0.0625}, "data.size": 16}

# field -> (changes to the tiny spec that both runs share, the field's other value, a metric that must differ)
CASES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "data.name": ({}, "noise", "probe/input/linear"),
    "data.size": ({}, 12, "probe/student/linear"),
    "data.samples": ({}, 50, "probe/input/linear"),
    "encoder.name": ({}, "convnet_4_2", "probe/teacher/knn"),
    "encoder.norm": ({}, "batch", "train/loss"),
    "encoder.attention": (SHARED_VIT, "heads", "probe/teacher/knn"),
    "encoder.width": ({}, 2.0, "probe/teacher/knn"),
    "projector.hidden": ({}, [8], "train/loss"),
    "projector.bottleneck": ({}, 4, "train/loss"),
    "projector.out_dim": ({}, 64, "train/teacher_entropy"),
    "projector.parts": ({}, "-/lb/fn/-/l/-", "train/teacher_entropy"),
    "projector.activation": ({}, "relu", "train/loss"),
    "projector.batch_norm": ({}, True, "train/loss"),
    "projector.init": ({}, "torch", "train/loss"),
    "student.alpha": ({}, 0.9, "distance/from_teacher"),
    "student.epsilon": ({"student.alpha": 1e-10}, 0.1, "distance/from_teacher"),
    "train.epochs": ({}, 3, "distance/from_init"),
    "train.batch_size": ({}, 16, "distance/from_init"),
    "train.optimizer.name": ({}, "adam", "distance/from_init"),
    "train.optimizer.lr": ({}, 0.001, "distance/from_init"),
    "train.optimizer.decay_norm_and_bias": ({"train.optimizer": {"weight_decay": 0.5}}, False, "train/loss"),
    "train.optimizer.clip": (SGD, 1e-4, "train/loss"),
    "train.freeze_last": ({}, "1it", "train/loss"),
    "train.optimizer.weight_decay": ({}, 0.0, "distance/from_init"),
    "train.optimizer.momentum": (SGD, 0.9, "distance/from_init"),
    "probe.linear": ({}, False, "probe/student/linear"),
    "probe.knn": ({}, 1, "probe/input/knn"),
    "probe.standardized": ({}, False, "probe/student/linear_standardized"),
    "probe.epochs": ({}, 4, "probe/input/linear"),
    "probe.batch_size": ({}, 8, "probe/input/linear"),
    "probe.lr": ({}, 0.001, "probe/input/linear"),
    "probe.logistic": ({"probe.logistic": True}, False, "probe/student/logistic_standardized"),
    "probe.ridge": ({"probe.ridge": True}, False, "probe/student/ridge"),
    "probe.l2": ({"probe.ridge": True}, 100.0, "probe/input/ridge"),
    "probe.also": ({"probe.also": ["noise"]}, [], "probe@noise/student/linear"),
    "probe.statistics": ({"probe.statistics": True}, False, "features/student/effective_rank"),
    "seeds.teacher": ({}, 1, "probe/teacher/knn"),
    "seeds.student": ({}, 1, "distance/from_teacher"),
    "seeds.data": ({}, 1, "probe/input/linear"),
    "seeds.probe": ({}, 1, "probe/input/linear"),
    "precision": ({}, "bf16", "train/loss"),
}
NO_NUMBERS = {"kind", "probe.every"}
"""One value alone so far; and what decides when, not what (test_distill)."""


@pytest.fixture(scope="module")
def both(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' data folder, with a second set of 8 x 8 grey images in ten classes."""
    folder = tmp_path_factory.mktemp("originals") / "noise"
    generator = np.random.default_rng(0)
    for number in range(200):
        path = folder / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8)).save(path)
    prepare("noise", data_dir, folder)
    return data_dir


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all: the run that they differ from is computed once."""
    return Store(tmp_path_factory.mktemp("store"))


def test_every_field_has_a_case() -> None:
    assert set(CASES) | NO_NUMBERS == set(_dotted_fields(RunSpec))


@pytest.mark.parametrize("field", CASES)
def test_a_field_changes_the_numbers(
    field: str, tiny: Callable[..., RunSpec], settings: Callable[..., Settings], both: Path, store: Store
) -> None:
    shared, value, metric = CASES[field]
    given = settings(data_dir=both, store=store)
    before = run(tiny(shared), given)["last"]
    after = run(tiny({**shared, field: value}), given)["last"]
    assert metric in before
    assert before[metric] != after.get(metric)


def test_float64_differs_from_float32_by_rounding_alone(
    tiny: Callable[..., RunSpec], settings: Callable[..., Settings], store: Store
) -> None:
    single, double = (run(tiny({"precision": name}), settings(store=store))["last"] for name in ("float32", "float64"))
    assert single["train/loss"] != double["train/loss"]
    assert single["train/loss"] == pytest.approx(double["train/loss"], rel=1e-5)
    assert single["distance/from_init"] == pytest.approx(double["distance/from_init"], rel=1e-2)


def test_the_frequency_of_probing_decides_when_alone(
    tiny: Callable[..., RunSpec], settings: Callable[..., Settings], store: Store
) -> None:
    given = settings(store=store)
    specs = [tiny({"probe.every": every}) for every in ("1ep", "1it")]
    often = [run(spec, given)["last"] for spec in specs]
    assert often[0] == often[1]
    rows = [read_metrics(given.store.run(spec).metrics_path).num_rows for spec in specs]
    assert rows[0] < rows[1]

"""Every field of a spec decides something: a run that differs in it alone gives other numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.prepare import Prepared, prepare
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import dotted_fields
from rt_scale.spec.experiments.training import DistillSpec
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store

SGD = {"train.optimizer": {"name": "sgd", "lr": 0.1}}

BATCH_NORM = {"encoder.norm": "batch"}
EMA = {**BATCH_NORM, "teacher": {"update": "ema", "momentum": 0.9, "statistics": "student"}}
LABELS = {"kind": "supervise", "projector.out_dim": 10}
OPEN = {"student": {}}
"""Without an alpha, which is another form of where the student starts."""
ELSEWHERE = {"same_but": {"student": {"alpha": 0.5}}}
CURVATURE = {"probe.curvature": {"images": 20, "eigenvalues": 1, "iterations": 2, "vectors": 2}}
CROP_FLIP = {"augment": {"kind": "crop_flip", "padding": 2}}
VIEWS: dict[str, Any] = {
    "augment": {
        "kind": "multicrop", "global_views": 2, "local_views": 2, "global_size": 8, "local_size": 4,
        "jitter": {"probability": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    },
    "objective.pairing": "all",
}  # fmt: skip
COLOUR = {**VIEWS, "data": {"name": "colours"}}
"""Grey images have neither hue nor saturation to lose."""
NOISE = {
    "data": {"name": "gaussian", "size": 8, "samples": 60, "channels": 1},
    "probe.also": ["digits"],
}
SHARED_VIT = {"encoder": {"name": "vit_tiny_shared", "width": 0.0625}, "data.size": 16}

# field -> (changes to the tiny spec that both runs share, the field's other value, a metric that must differ)
CASES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "data.name": ({}, "noise", "probe/input/linear"),
    "data.size": ({}, 12, "probe/student/linear"),
    "data.samples": ({}, 50, "probe/input/linear"),
    "data.sigma": (NOISE, 2.0, "train/loss"),
    "encoder.name": ({}, "convnet_4_2", "probe/teacher/knn"),
    "encoder.norm": ({}, "batch", "train/loss"),
    "encoder.attention": (SHARED_VIT, "heads", "probe/teacher/knn"),
    "encoder.init": (SHARED_VIT, "authors", "probe/teacher/knn"),
    "encoder.width": ({}, 2.0, "probe/teacher/knn"),
    "projector.hidden": ({}, [8], "train/loss"),
    "projector.bottleneck": ({}, 4, "train/loss"),
    "projector.out_dim": ({}, 64, "train/teacher_entropy"),
    "projector.parts": ({}, "-/lb/fn/-/l/-", "train/teacher_entropy"),
    "projector.activation": ({}, "relu", "train/loss"),
    "projector.batch_norm": ({}, True, "train/loss"),
    "projector.init": ({}, "torch", "train/loss"),
    "kind": ({"projector.out_dim": 10}, "supervise", "train/loss"),
    "teacher.start_from": ({}, {"run": "same"}, "probe/teacher/knn"),
    "teacher.width": ({"student.alpha": 1.0}, 2.0, "probe/teacher/knn"),
    "teacher.count": ({}, 3, "train/teacher_entropy"),
    "teacher.update": (BATCH_NORM, "ema", "train/loss"),
    "teacher.momentum": (EMA, 0.5, "train/loss"),
    "teacher.mode": (BATCH_NORM, "train", "train/loss"),
    "teacher.statistics": (EMA, "data", "train/loss"),
    "teacher.temperature": ({}, 0.5, "train/teacher_entropy"),
    "teacher.center": ({}, 0.5, "train/teacher_entropy"),
    "student.start_from": (OPEN, {"run": "same"}, "distance/from_teacher"),
    "student.temperature": ({}, 0.5, "train/student_entropy"),
    "student.center": ({}, 0.5, "train/loss"),
    "objective.name": ({}, "mse", "train/loss"),
    "objective.pairing": (VIEWS, "opposite", "train/loss"),
    "objective.label_noise": (LABELS, 0.5, "train/loss"),
    "augment.kind": ({}, "crop_flip", "train/loss"),
    "augment.padding": (CROP_FLIP, 1, "train/loss"),
    "augment.flip": (VIEWS, 0.0, "train/loss"),
    "augment.global_views": (VIEWS, 3, "train/loss"),
    "augment.local_views": (VIEWS, 3, "train/loss"),
    "augment.global_size": (VIEWS, 12, "train/loss"),
    "augment.local_size": (VIEWS, 6, "train/loss"),
    "augment.global_scale": (VIEWS, [0.9, 1.0], "train/loss"),
    "augment.local_scale": (VIEWS, [0.3, 0.4], "train/loss"),
    "augment.ratio": (VIEWS, [1.0, 1.0], "train/loss"),
    "augment.interpolation": (VIEWS, "bilinear", "train/loss"),
    "augment.jitter.probability": (VIEWS, 1.0, "train/loss"),
    "augment.jitter.brightness": (VIEWS, 0.1, "train/loss"),
    "augment.jitter.contrast": (VIEWS, 0.1, "train/loss"),
    "augment.jitter.saturation": (COLOUR, 0.1, "train/loss"),
    "augment.jitter.hue": (COLOUR, 0.0, "train/loss"),
    "augment.grayscale": (COLOUR, 0.9, "train/loss"),
    "augment.blur.first": (VIEWS, 0.0, "train/loss"),
    "augment.blur.others": (VIEWS, 0.9, "train/loss"),
    "augment.blur.local": (VIEWS, 0.0, "train/loss"),
    "augment.blur.sigma": (VIEWS, [1.5, 2.0], "train/loss"),
    "augment.solarize": (VIEWS, 0.9, "train/loss"),
    "augment.solarize_threshold": (VIEWS, 0.1, "train/loss"),
    "student.alpha": ({}, 0.9, "distance/from_teacher"),
    "student.epsilon": ({"student.alpha": 1e-10}, 0.1, "distance/from_teacher"),
    "train.epochs": ({}, 3, "distance/from_init"),
    "train.batch_size": ({}, 16, "distance/from_init"),
    "train.optimizer.name": ({}, "adam", "distance/from_init"),
    "train.optimizer.lr": ({}, 0.001, "distance/from_init"),
    "train.optimizer.decay_norm_and_bias": ({"train.optimizer": {"weight_decay": 0.5}}, False, "train/loss"),
    "train.optimizer.clip": (SGD, 1e-4, "train/loss"),
    "train.freeze_last": ({}, "1it", "train/loss"),
    "train.stop": ({}, "3it", "train/loss"),
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
    "probe.also_size": (
        {"data.name": "noise", "data.size": 12, "probe.also": ["digits"]},
        "own",
        "probe@digits/student/linear",
    ),
    "probe.own": ({"probe.also": ["noise"]}, False, "probe/student/linear"),
    "probe.baselines": ({}, False, "probe/teacher/linear"),
    "probe.statistics": ({"probe.statistics": True}, False, "features/student/effective_rank"),
    "probe.curvature": (CURVATURE, None, "curvature/trace"),
    "probe.curvature.images": (CURVATURE, 40, "curvature/trace"),
    "probe.curvature.eigenvalues": (CURVATURE, 0, "curvature/eigenvalue_1"),
    "probe.curvature.iterations": (CURVATURE, 1, "curvature/eigenvalue_1"),
    "probe.curvature.vectors": (CURVATURE, 3, "curvature/trace"),
    "probe.layers": ({"probe.layers": {"images": 20}}, None, "layers/student/cosine_01"),
    "probe.layers.images": ({"probe.layers": {"images": 20}}, 30, "layers/student/cosine_01"),
    "seeds.teacher": ({}, 1, "probe/teacher/knn"),
    "seeds.student": ({}, 1, "distance/from_teacher"),
    "seeds.data": ({}, 1, "probe/input/linear"),
    "seeds.order": ({}, 1, "train/loss"),
    "seeds.probe": ({}, 1, "probe/input/linear"),
    "precision": ({}, "bf16", "train/loss"),
}
NO_NUMBERS = {"probe.every", "data.channels"}
"""The first decides when, not what (test_training_run); the second is that of probe.also (test_noise_inputs)."""
OF_PLUGINS = {
    *("data.args", "data.source", "data.reader", "encoder.args", "encoder.source"),
    *("objective.args", "objective.source", "probe.extra"),
}
"""Of what a user brings (test_own)."""

# field -> (changes that all runs share, every value, a metric in which no two agree)
CHOICES: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "objective.name": ({}, ["cross_entropy", "kl", "mse"], "train/loss"),
    "objective.pairing": ({**VIEWS, "augment.local_views": 0}, ["same", "opposite", "all"], "train/loss"),
    "augment.kind": ({}, ["none", "crop_flip"], "train/loss"),
    "teacher.update": (BATCH_NORM, ["none", "ema", "previous_epoch"], "train/loss"),
    "teacher.statistics": (EMA, ["initial", "student", "data"], "train/loss"),
    "teacher.mode": (EMA, ["eval", "train"], "train/loss"),
    "student.start_from": (
        EMA | OPEN,
        [
            None,
            *({"run": ELSEWHERE, "take": take} for take in ("student", "teacher", "init")),
            *({"run": ELSEWHERE, "take": take, "part": "encoder"} for take in ("student", "teacher", "init")),
        ],
        "distance/from_teacher",
    ),
    "teacher.start_from": (
        EMA,
        [None, *({"run": "same", "take": t} for t in ("student", "teacher", "init"))],
        "train/loss",
    ),
}


@pytest.fixture(scope="session")
def both(data_dir: Path, colours: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' data folder, with a second set of 8 x 8 grey images in ten classes, and one of colour images."""
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
    assert set(CASES) | NO_NUMBERS | OF_PLUGINS == set(dotted_fields(DistillSpec))


@pytest.mark.parametrize("field", CASES)
def test_a_field_changes_the_numbers(
    field: str, tiny: Callable[..., RunSpec], settings: Callable[..., Options], both: Path, store: Store
) -> None:
    shared, value, metric = CASES[field]
    given = settings(data_dir=both, store=store)
    before = run(tiny(shared), given).last
    after = run(tiny({**shared, field: value}), given).last
    assert metric in before
    assert before[metric] != after.get(metric)


@pytest.mark.parametrize("field", CHOICES)
def test_every_choice_has_numbers_of_its_own(
    field: str, tiny: Callable[..., RunSpec], settings: Callable[..., Options], both: Path, store: Store
) -> None:
    shared, values, metric = CHOICES[field]
    given = settings(data_dir=both, store=store)
    found = [run(tiny({**shared, field: value}), given).last[metric] for value in values]
    assert len(set(found)) == len(values), dict(zip(map(str, values), found, strict=True))


def test_float64_differs_from_float32_by_rounding_alone(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], store: Store
) -> None:
    single, double = (run(tiny({"precision": name}), settings(store=store)).last for name in ("float32", "float64"))
    assert single["train/loss"] != double["train/loss"]
    assert single["train/loss"] == pytest.approx(double["train/loss"], rel=1e-5)
    assert single["distance/from_init"] == pytest.approx(double["distance/from_init"], rel=1e-2)


def test_the_frequency_of_probing_decides_when_alone(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], store: Store
) -> None:
    given = settings(store=store)
    specs = [tiny({"probe.every": every}) for every in ("1ep", "1it")]
    often = [run(spec, given).last for spec in specs]
    assert often[0] == often[1]
    rows = [read_metrics(given.store.run(spec).metrics_path).num_rows for spec in specs]
    assert rows[0] < rows[1]

"""seeds.order: the order of the training images and their augmentation, apart from what seeds.data draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rt_scale.data.loaders.choose import training_loader, training_subset
from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import NoiseSet, noise_set
from rt_scale.experiments.batched import run_batched
from rt_scale.experiments.objectives import build_objective, build_views
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.store.store import Store
from rt_scale.training.distillation import Supervision

Tiny = Callable[..., TrainingSpec]
Make = Callable[..., Options]
CPU = torch.device("cpu")
NOISE: dict[str, Any] = {
    "data": {"name": "gaussian", "size": 8, "samples": 60, "channels": 1},
    "probe.also": ["digits"],
}
LABELS: dict[str, Any] = {"kind": "supervise", "projector.out_dim": 10, "objective.label_noise": 0.5}


def epoch(spec: TrainingSpec, data: Prepared | NoiseSet, loader: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The index of every image of an epoch, in order, and the images by index."""
    batches = list(training_loader(spec, data, loader, CPU, training_subset(spec, data)).epoch(1))
    index = torch.cat([batch.index for batch in batches])
    return index, torch.cat([batch.images for batch in batches])[index.argsort()]


@pytest.mark.parametrize("loader", ["resident", "host", "map", "ffcv", "drawn"])
def test_another_order_of_the_same_images(tiny: Tiny, digits: Prepared, loader: str) -> None:
    shared, data = ({}, digits) if loader != "drawn" else (NOISE, noise_set("gaussian", 60, 8, 1, 1.0))
    plain, other = (tiny({**shared, "seeds": {"data": 3} | order}) for order in ({}, {"order": 4}))
    (before, images), (after, same) = (epoch(spec, data, loader) for spec in (plain, other))
    assert torch.equal(images, same)
    assert sorted(before) == sorted(after)
    assert not torch.equal(before, after)
    assert torch.equal(after, epoch(tiny({**shared, "seeds.data": 4}), data, loader)[0])


def test_the_augmentation_goes_with_the_order(tiny: Tiny, digits: Prepared) -> None:
    def view(**seeds: int) -> torch.Tensor:
        spec = tiny({"augment": {"kind": "crop_flip", "padding": 2}, "seeds": seeds})
        loader = training_loader(spec, digits, "map", CPU, None)
        images = torch.from_numpy(digits.train.gather(np.arange(32)))
        return build_views(spec, digits.info, False, loader)(images, 1)[0]

    assert torch.equal(view(data=3), view(data=0, order=3))
    assert not torch.equal(view(data=3), view(data=3, order=0))


def test_random_labels_stay_with_the_data(tiny: Tiny, digits: Prepared) -> None:
    def labels(**seeds: int) -> torch.Tensor:
        spec = tiny({**LABELS, "seeds": seeds})
        subset = training_subset(spec, digits)
        built = build_objective(spec, digits, subset, lambda *_: (), lambda: pytest.fail("no teacher"), {}, CPU)
        assert isinstance(built, Supervision)
        return built.labels

    assert torch.equal(labels(data=3), labels(data=3, order=5))
    assert not torch.equal(labels(data=3), labels(data=5))


def trained(store: Store, spec: TrainingSpec) -> dict[str, torch.Tensor]:
    return load_file(store.run(spec).path / "checkpoints" / "4" / "student.safetensors")


def test_probes_of_input_and_teacher_stay_and_the_student_changes(tiny: Tiny, settings: Make) -> None:
    given = settings()
    plain, other = (run(tiny({"seeds": {"data": 2} | order}), given).last for order in ({}, {"order": 1}))
    for name in plain:
        if name.startswith(("probe/input/", "probe/teacher/")):
            assert plain[name] == other[name]
    assert plain["train/loss"] != other["train/loss"]


def test_batched_runs_of_several_orders_are_as_alone(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    augmented = {"precision": "float64", "augment": {"kind": "crop_flip", "padding": 2}}
    specs = [tiny({**augmented, "seeds": {"order": order}}) for order in (0, 1, 2)]
    together, alone = settings(), settings(store=Store(tmp_path / "alone"))
    run_batched(specs, [together] * 3)
    for spec in specs:
        run(spec, alone)
        expected = trained(alone.store, spec)
        for name, weight in trained(together.store, spec).items():
            assert weight.numpy() == pytest.approx(expected[name].numpy(), abs=1e-9), name

"""The curvature of a run's loss: of the loss that is trained, at every probing, without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.data.loaders.choose import training_loader, training_subset
from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import check_all
from rt_scale.experiments.objectives import (
    CleanLoss,
    build_objective,
    build_sharpenings,
    build_views,
    clean_inputs,
)  # fmt: skip
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from rt_scale.training.distillation import ComputedTargets
from tests.unit.experiments.conftest import curves

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
CURVATURE = {"probe.curvature": {"images": 20, "eigenvalues": 1, "iterations": 5, "vectors": 2}}
LABELS = {"kind": "supervise", "projector.out_dim": 10, "objective.label_noise": 0.5}
SHARP = {
    "student.temperature": 0.5, "student.center": 0.9,
    "teacher.temperature": "linear(0.04, 0.07)", "teacher.center": 0.8,
}  # fmt: skip
OBJECTIVES: list[dict[str, Any]] = [
    {}, {"objective.name": "mse"}, {"objective.name": "kl"}, {"encoder.norm": "batch"}, SHARP,
    LABELS, {**LABELS, "encoder.norm": "batch"}, {"data.samples": None},
]  # fmt: skip


class Losses:
    """The loss to differentiate twice, and the trained one on the same images."""

    def __init__(self, spec: Any, digits: Prepared) -> None:
        subset, device = training_subset(spec, digits), torch.device("cpu")
        pair = build_pair(spec, 1, 8)
        pair.student.double()
        pair.teacher.double()
        loader = training_loader(spec, digits, "resident", device, subset)
        inputs = clean_inputs(spec, digits.info, channels_last=False)
        sharpenings = build_sharpenings(spec, 4, 2)
        views = build_views(spec, digits.info, False, loader)
        self.objective = build_objective(
            spec, digits, subset, views, lambda: [ComputedTargets(pair.teacher)], sharpenings, device
        )
        self.student: Network = pair.student
        (whole,) = loader.sequential()
        self.whole = whole
        for step in range(2 if "center" in str(spec.canonical_text) else 0):
            self.objective(pair.student, self.whole, step)  # centres are somewhere
        self.clean = CleanLoss(spec, digits, subset, pair, sharpenings, loader, inputs)


def part(batch: Batch, clean: CleanLoss, inputs: Callable[[Tensor], Tensor]) -> Batch:
    """The images of ``clean``, found among those of the batch."""
    seen = inputs(batch.images).flatten(1)
    wanted = torch.cat([x for x, _ in clean.batches]).flatten(1)
    rows = torch.tensor([int((seen == row).all(1).nonzero()[0, 0]) for row in wanted])
    return Batch(*(each[rows] for each in batch))


@pytest.mark.parametrize("changes", OBJECTIVES)
def test_it_is_the_loss_that_is_trained(changes: dict[str, Any], tiny: Tiny, digits: Prepared) -> None:
    whole = {"train.batch_size": 2000, "precision": "float64", "student.alpha": 0.5}
    losses = Losses(tiny({**CURVATURE, **whole, **changes}), digits)
    inputs = clean_inputs(losses.clean.spec, digits.info, channels_last=False)
    batch = part(losses.whole, losses.clean, inputs)
    before = {name: buffer.clone() for name, buffer in losses.student.named_buffers()}
    found = sum(loss() for loss in losses.clean.parts(3))
    assert all(torch.equal(buffer, before[name]) for name, buffer in losses.student.named_buffers())
    (slopes,) = (torch.autograd.grad(found, list(losses.student.parameters())),)
    measured = losses.objective(losses.student, batch, 3)
    expected = torch.autograd.grad(measured.loss, list(losses.student.parameters()))
    for mine, theirs in zip(slopes, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_images_are_in_batches_of_the_training_and_balanced(tiny: Tiny, digits: Prepared) -> None:
    clean = Losses(tiny({**CURVATURE, **LABELS, "objective.label_noise": 0.0, "train.batch_size": 64}), digits).clean
    assert [len(x) for x, _ in clean.batches] == [20]
    clean.spec = tiny({**CURVATURE, "train.batch_size": 8})
    assert np.bincount(torch.cat([y for _, y in clean.batches]).numpy()).tolist() == [2] * 10


def test_every_probing_has_it_and_the_training_does_not_notice(
    tiny: Tiny, settings: Make, data_dir: Path, tmp_path: Path
) -> None:
    changes = {"encoder.norm": "batch", "train.batch_size": 16}
    given = settings(data_dir=data_dir, store=Store(tmp_path / "one"))
    spec = tiny({**changes, **CURVATURE})
    run(spec, given)
    run(tiny(changes), given)
    found, plain = curves(given.store, spec), curves(given.store, tiny(changes))
    names = [name for name in found if name.startswith("curvature/")]
    assert sorted(names) == sorted(spec.probe.curvature.metrics)  # type: ignore[attr-defined]
    for name in names:
        assert [step for step, _ in found[name]] == [step for step, _ in found["probe/student/knn"]]
    assert {name: values for name, values in found.items() if name not in names} == plain
    again = settings(data_dir=data_dir, store=Store(tmp_path / "two"))
    run(spec, again)
    assert curves(again.store, spec) == found


@pytest.mark.parametrize("images", [9, 61])
def test_other_numbers_of_images_are_refused(images: int, tiny: Tiny, data_dir: Path) -> None:
    with pytest.raises(InputError, match=rf"curvature.images is {images}.* from 10 to 60"):
        check_all([tiny({"probe.curvature": {"images": images}})], data_dir)


def test_several_workers_are_refused(tiny: Tiny, data_dir: Path) -> None:
    spec = tiny(CURVATURE)
    with pytest.raises(InputError, match=r"the curvature .* Leave workers at 1"):
        check_all([spec], data_dir, workers={spec.name: 2})


def test_an_operation_without_second_derivative_is_named(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0]

    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, images: Once.apply(forward(self, images)))
    with pytest.raises(RunError, match=r"no second derivative .* Leave out probe.curvature"):
        run(tiny(CURVATURE), settings())

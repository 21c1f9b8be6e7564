"""A run of ours and of the naive implementation from the same numbers, compared after 12 optimiser steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Batch
from rt_scale.data.subsets import noisy_labels
from rt_scale.losses.distances import view_pairs
from rt_scale.models.networks import Network, Pair, build_pair, to_device
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schedule import duration_steps
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Distillation, Supervision, Targets, Views
from rt_scale.training.loop import Progress, train
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.teacher import Following, Sharpening
from tests.reference import naive_method as naive
from tests.reference import naive_network

SAMPLES, SIZE, BATCH, EPOCHS, EPOCH = 11, 6, 4, 4, 3  # steps in an EPOCH; the last has 3 images
STEPS = EPOCHS * EPOCH
CLASSES = 9
MEAN, STD = 0.45, 0.3
RELATIVE = 1e-9
ABSOLUTE = 1e-12  # for a number that is close to 0 by chance: 1e-9 of one of Adam's updates at a learning rate of 1e-3
NOISE = 1e-6  # see shifts_of_batch_norms


class InMemory:
    """11 random images with labels; in every epoch another order (a Loader)."""

    samples, batch_size, steps = SAMPLES, BATCH, EPOCH

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = torch.from_numpy(generator.integers(0, 256, (SAMPLES, SIZE, SIZE, 1), dtype=np.uint8))
        self.orders = [generator.permutation(SAMPLES).tolist() for _ in range(EPOCHS)]
        self.labels = generator.integers(0, CLASSES, SAMPLES)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for positions in split(self.orders[epoch])[start:]:
            index = torch.tensor(positions)
            yield Batch(self.images[index], torch.zeros(len(index), dtype=torch.int64), index)

    def sequential(self) -> Iterator[Batch]:
        yield Batch(self.images, torch.zeros(SAMPLES, dtype=torch.int64), torch.arange(SAMPLES))


class Epochs(list[dict[str, float]]):
    """Keeps the metrics of every epoch (a Hook)."""

    def after_step(self, progress: Progress) -> None:
        pass

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.append(metrics)

    def stopped(self, progress: Progress) -> None:
        """Nobody stops it."""


def split(positions: list[int]) -> list[list[int]]:
    return [positions[start : start + BATCH] for start in range(0, SAMPLES, BATCH)]


def run_spec(*, alpha: float = 0.3, norm: str = "none", student: Mapping[str, Any] = {}, **fields: Any) -> RunSpec:
    """A small run of 12 steps in float64; ``projector`` and ``train`` are added to its own."""
    projector = {"hidden": [7], "bottleneck": 5, "out_dim": CLASSES, **fields.pop("projector", {})}
    return RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": norm},
            "projector": projector,
            "student": {"alpha": alpha, **student},
            "train": {"epochs": EPOCHS, "batch_size": BATCH, **fields.pop("train")},
            "precision": "float64",
            **fields,
        }
    )


def start(spec: RunSpec) -> Pair:
    teacher, student = build_pair(spec, channels=1, size=SIZE)
    return Pair(*(to_device(network, "cpu", torch.float64) for network in (teacher, student)))


def views_of(spec: RunSpec) -> Views:
    """The images themselves, or global views that are rolled and local views of 4 x 4 that move with the step."""
    inputs = functools.partial(to_inputs, mean=(MEAN,), std=(STD,), size=None, dtype=torch.float64)
    if spec.augment.kind == "none":
        return lambda images, step: (inputs(images),)

    def views(images: Tensor, step: int) -> Sequence[Tensor]:
        whole = inputs(images)
        large = [torch.roll(whole, step + 2 * view, dims=3) for view in range(spec.augment.global_views)]
        corners = [((step + view) % 3, 2 * (step + view) % 3) for view in range(spec.augment.local_views)]
        return (*large, *(whole[..., y : y + 4, x : x + 4] for y, x in corners))

    return views


def labels_of(spec: RunSpec, loader: InMemory) -> np.ndarray:
    return noisy_labels(loader.labels, spec.objective.label_noise, CLASSES, spec.seeds.data)


class Outcome(NamedTuple):
    """What a run of ours leaves behind."""

    teacher: Network
    student: Network
    sharpenings: Mapping[str, Sharpening]
    history: Epochs


def _objective(
    spec: RunSpec, teacher: Network, sharpenings: Mapping[str, Sharpening], cached: bool
) -> Distillation | Supervision:
    loader, views, augment = InMemory(), views_of(spec), spec.augment
    if spec.kind == "supervise":
        return Supervision(torch.from_numpy(labels_of(spec, loader)), views, spec.precision)
    learns = spec.teacher.statistics == "data"
    targets: Targets = ComputedTargets(teacher, frozen=spec.teacher.update == "none", learn_statistics=learns)
    if cached:
        targets = CachedTargets(teacher, loader.sequential(), SAMPLES, lambda images: views(images, 0)[0])
    shown = (augment.global_views, augment.global_views + augment.local_views)
    pairs = view_pairs(spec.objective.pairing, *(shown if augment.kind == "multicrop" else (1, 1)))
    return Distillation(targets, views, spec.precision, name=spec.objective.name, pairs=pairs, sharpenings=sharpenings)


def ours(spec: RunSpec, cached: bool) -> Outcome:
    """A run of ``spec``, put together as experiments/training_run.py does."""
    teacher, student = start(spec)
    loader, recipe, history = InMemory(), spec.train, Epochs()
    steps = {"steps": STEPS, "steps_per_epoch": loader.steps}
    following = Following(spec.teacher, teacher, student, **steps)
    sharpenings = {
        role: Sharpening(part.temperature, part.center, **steps)
        for role, part in (("teacher", spec.teacher), ("student", spec.student))
    }
    optimizer = build_optimizer(recipe.optimizer, student.parameters())
    frozen = duration_steps(recipe.freeze_last, loader.steps) if recipe.freeze_last else 0
    last = list(student.projector.last.parameters())
    rules = UpdateRules(optimizer, recipe.optimizer, frozen=last, frozen_steps=frozen, **steps)
    progress = Progress()
    train(
        student,
        loader,
        _objective(spec, teacher, sharpenings, cached),
        optimizer,
        epochs=EPOCHS,
        progress=progress,
        before_update=rules,
        hooks=[following, history],
    )
    assert progress == Progress(EPOCHS, STEPS)
    return Outcome(teacher, student, sharpenings, history)


def plain(spec: RunSpec, network: nn.Module) -> naive_network.Network:
    return naive_network.Network(
        theta={name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()},
        statistics={name: value.clone() for name, value in network.named_buffers() if "running" in name},
        parts=spec.projector.parts,
        activation=spec.projector.activation,
        training=network.training,
    )


def batches(spec: RunSpec) -> list[list[naive.Batch]]:
    loader, views = InMemory(), views_of(spec)
    labels, steps = labels_of(spec, loader), iter(range(STEPS))
    return [
        [naive.Batch(views(loader.images[index], next(steps)), labels[index].tolist()) for index in split(order)]
        for order in loader.orders
    ]


def shifts_of_batch_norms(network: naive_network.Network) -> set[str]:
    """Biases right before a batch norm, which subtracts them again, and the running means that they are part of.

    Their exact gradient is 0; what is computed is rounding, some 1e-16, and Adam divides it by its size + 1e-8.
    """
    norms = [name.removesuffix(".running_mean") for name in network.statistics if name.endswith("mean")]
    layers = [(norm, *norm.rsplit(".", 1)) for norm in norms]
    biases = {f"{prefix}.{int(place) - 1}.bias" for _, prefix, place in layers}
    assert biases <= network.theta.keys()
    return biases | {f"{norm}.running_mean" for norm in norms}


def assert_same_state(found: nn.Module, expected: naive_network.Network, which: str) -> None:
    state = {name: value for name, value in found.state_dict().items() if "num_batches" not in name}
    assert state.keys() == expected.theta.keys() | expected.statistics.keys()
    for name, value in {**expected.theta, **expected.statistics}.items():
        absolute = NOISE if name in shifts_of_batch_norms(expected) else ABSOLUTE
        same = torch.isclose(state[name], value.detach(), rtol=RELATIVE, atol=absolute)
        assert same.all(), f"{which}, {name}: {state[name]} is not {value}"


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    return max(float((after[name] - before[name]).detach().abs().max()) for name in before)


def assert_agreement(
    spec: RunSpec, recipe: naive.Recipe, method: naive.Method | None = None, *, cached: Sequence[bool] = (False,)
) -> None:
    """Every parameter, running statistic, centre and metric; of each way in ``cached`` of having the teacher."""
    method = method or naive.Method()
    teacher, student = (plain(spec, network) for network in start(spec))
    initial = {"teacher": dict(teacher.theta), "student": dict(student.theta)}
    expected = naive.training(teacher, student, batches(spec), recipe, method)
    assert min(epoch["grad_norm"] for epoch in expected) > 1e-6  # more than rounding: it is training that agrees
    assert moved(initial["student"], student.theta) > 1e-3
    assert (moved(initial["teacher"], teacher.theta) > 1e-3) == (method.update != "none")
    for way in cached:
        outcome = ours(spec, way)
        assert [set(metrics) for metrics in outcome.history] == [set(metrics) for metrics in expected]
        for metrics, expected_metrics in zip(outcome.history, expected, strict=True):
            assert metrics == pytest.approx(expected_metrics, rel=RELATIVE, abs=ABSOLUTE)
        assert_same_state(outcome.student, student, f"student (cached: {way})")
        assert_same_state(outcome.teacher, teacher, f"teacher (cached: {way})")
        for role, sharpening in (("teacher", method.teacher), ("student", method.student)):
            centre = outcome.sharpenings[role].centre
            assert (centre is None) == (sharpening.momentum is None)
            if centre is not None:
                torch.testing.assert_close(centre, sharpening.centre, rtol=RELATIVE, atol=ABSOLUTE)

"""Students trained as one batched network: each as if it were alone, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Batch
from rt_scale.models.networks import Network, build_pair, to_device
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.training.batched import BatchedNetwork, train_together
from rt_scale.training.distillation import ComputedTargets, Distillation, Supervision
from rt_scale.training.loop import Diverged, Gradients, Measured, Progress, Step, compute_gradients, train
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.teacher import Sharpening

RECIPES: tuple[dict[str, Any], ...] = (
    {"name": "adamw", "lr": "cosine(2e-3, 0)", "weight_decay": 0.01, "clip": 0.05},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    {"name": "adam", "lr": 1e-3},
)


class Pictures:
    """34 random pictures of ``size`` pixels in batches of 8, the last one of 2; their order is that of the epoch."""

    samples, batch_size, steps = 34, 8, 5

    def __init__(self, seed: int, size: int) -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (34, size, size, 3), dtype=torch.uint8, generator=drawn)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for index in torch.randperm(34, generator=torch.Generator().manual_seed(epoch)).split(8)[start:]:
            yield Batch(self.images[index], index % 10, index)

    def sequential(self) -> Iterator[Batch]:
        yield from self.epoch(0)


def views(images: Tensor, step: int) -> tuple[Tensor, ...]:
    return (to_inputs(images, (0.5,) * 3, (0.2,) * 3, None, torch.float64, channels_last=True),)


@dataclass
class Student:
    """One training, and what it told its hooks."""

    network: Network
    optimizer: torch.optim.Optimizer
    epochs: list[dict[str, float]]
    run: Callable[[Gradients], str]

    def alone(self) -> str:
        return self.run(compute_gradients)


class Failing(Distillation):
    """A distillation that runs out of memory at a step, if any."""

    fails_at: int | None = None

    def __call__(self, model: Network, batch: Batch, step: int) -> Measured:
        if step == self.fails_at:
            raise MemoryError("no room for its outputs")
        return super().__call__(model, batch, step)


class Told:
    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def after_step(self, progress: Progress) -> None: ...

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.epochs.append(metrics)

    def stopped(self, progress: Progress) -> None: ...


def student(
    number: int,
    encoder: dict[str, Any] | None = None,
    projector: dict[str, Any] | None = None,
    *,
    kind: str = "distill",
    size: int = 8,
    pictures: int = 0,
    epochs: int = 4,
    lr: float | None = None,
    progress: Progress | None = None,
    stop_after: int | None = None,
    fails_at: int | None = None,
) -> Student:
    """The student of that number: of a teacher, a start, a recipe and, by ``pictures``, images of its own."""
    recipe = RECIPES[number % 3] | ({} if lr is None else {"lr": lr})
    spec = RunSpec.model_validate(
        {
            "data": {"name": "cifar10"},
            "encoder": {"name": "convnet_4_2", **(encoder or {})},
            "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 12, **(projector or {})},
            "student": {"alpha": 0.2 + 0.2 * number},
            "seeds": {"student": number, "teacher": number % 2},
            "train": {"optimizer": recipe},
            "precision": "float64",
        }
    )
    teacher, network = (to_device(each, "cpu", torch.float64) for each in build_pair(spec, 3, size))
    optimizer = build_optimizer(spec.train.optimizer, network.parameters())
    loader, told = Pictures(pictures, size), Told()
    objective: Distillation | Supervision = Supervision(torch.arange(34) % 12, views, "float64")
    if kind == "distill":
        sharpenings = {"teacher": Sharpening(0.5, 0.9), "student": Sharpening(0.7)}
        objective = Failing(ComputedTargets(teacher), views, "float64", sharpenings=sharpenings)
        objective.fails_at = fails_at
    rules = UpdateRules(
        optimizer,
        spec.train.optimizer,
        steps=20,
        steps_per_epoch=5,
        frozen=list(network.projector.last.parameters()),
        frozen_steps=3 * number,
    )

    def run(gradients: Gradients) -> str:
        at = progress or Progress()
        train(
            network, loader, objective, optimizer, epochs=epochs, progress=at, before_update=rules, hooks=[told],
            stop=lambda: at.step == stop_after, gradients=gradients,
        )  # fmt: skip
        return f"student {number} after {at.step} steps"

    return Student(network, optimizer, told.epochs, run)


def assert_equal(packed: Student, alone: Student) -> None:
    """In parameters, buffers, moments and everything measured."""
    for (name, one), other in zip(
        packed.network.state_dict().items(), alone.network.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, other, rtol=0, atol=1e-9), name
        assert one.stride() == other.stride()
    states = [each.optimizer.state_dict()["state"] for each in (packed, alone)]
    for key, moments in states[1].items():
        for name, value in moments.items():
            assert value is None or torch.allclose(states[0][key][name], value, rtol=0, atol=1e-9), name
    assert len(packed.epochs) == len(alone.epochs)
    for one, other in zip(packed.epochs, alone.epochs, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


SHAPES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "batch": {"encoder": {"norm": "batch"}},
    "instance": {"encoder": {"norm": "instance"}},
    "groups": {"encoder": {"name": "convnet_8_2", "norm": "group8"}},
    "layer": {"encoder": {"norm": "layer"}},
    "resnet20": {"encoder": {"name": "resnet20", "width": 0.25}},
    "mlp": {"encoder": {"name": "mlp_6_2"}},
    "vit": {"encoder": {"name": "vit_tiny", "width": 0.0625}, "size": 8},
    "all parts": {"projector": {"parts": "wn/lb/fn/wn/l/fn", "batch_norm": True}},
    "labels": {"kind": "supervise"},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_students_train_as_each_does_alone(shape: dict[str, Any]) -> None:
    count = 2 if shape else 3  # all recipes once
    packed, alone = ([student(number, **shape) for number in range(count)] for _ in range(2))
    ended = train_together([each.run for each in packed], same_images=True)
    assert ended == [f"student {number} after 20 steps" for number in range(count)]
    for one, other in zip(packed, alone, strict=True):
        start = {name: value.clone() for name, value in other.network.state_dict().items()}
        other.alone()
        assert_equal(one, other)
        assert any(not torch.equal(value, start[name]) for name, value in other.network.state_dict().items())


def test_students_see_images_of_their_own() -> None:
    packed, alone = ([student(number, pictures=number) for number in range(3)] for _ in range(2))
    train_together([each.run for each in packed])
    for one, other in zip(packed, alone, strict=True):
        other.alone()
        assert_equal(one, other)


def test_one_that_diverges_or_is_stopped_or_done_leaves_the_others_to_go_on() -> None:
    def made() -> list[Student]:
        return [student(0, epochs=2), student(1, lr=1e200), student(2, stop_after=7), student(3), student(4)]

    packed, alone = made(), made()
    ended = train_together([each.run for each in packed], same_images=True)
    assert [type(each) for each in ended] == [str, Diverged, Stopped, str, str]
    assert ended[0] == "student 0 after 10 steps"
    assert "epoch 1" in str(ended[1])
    for number in (0, 3, 4):
        alone[number].alone()
        assert_equal(packed[number], alone[number])
    with pytest.raises(Stopped):
        alone[2].alone()
    assert_equal(packed[2], alone[2])


def test_students_that_are_not_at_the_same_batch_are_served_all_the_same() -> None:
    """One goes on from its fourth step: in every epoch but the first its batches are of the others' size."""

    def made() -> list[Student]:
        return [student(0), student(1, progress=Progress(epoch=0, step=3)), student(2)]

    packed, alone = made(), made()
    train_together([each.run for each in packed], same_images=True)
    for one, other in zip(packed, alone, strict=True):
        other.alone()
        assert_equal(one, other)


@pytest.mark.parametrize(("ahead", "step"), [(0, 6), (3, 1)], ids=["together", "batches of two sizes"])
def test_one_whose_step_fails_leaves_the_others_to_go_on(ahead: int, step: int) -> None:
    def made() -> list[Student]:
        return [student(0, progress=Progress(epoch=0, step=ahead)), student(1, fails_at=step), student(2)]

    packed, alone = made(), made()
    ended = train_together([each.run for each in packed], same_images=True)
    assert [type(each) for each in ended] == [str, MemoryError, str]
    for number in (0, 2):
        alone[number].alone()
        assert_equal(packed[number], alone[number])


def test_what_fails_in_the_common_pass_ends_every_training_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: BatchedNetwork, steps: list[Step]) -> None:
        raise MemoryError("no room for the common pass")

    monkeypatch.setattr(BatchedNetwork, "gradients", full)
    ended = train_together([student(number).run for number in range(2)])
    assert [type(each) for each in ended] == [MemoryError, MemoryError]


def test_one_run_computes_at_a_time_and_its_end_is_told_in_the_callers_thread() -> None:
    order: list[tuple[str, int]] = []

    def noted(number: int, length: int) -> Callable[[Gradients], str]:
        def run(gradients: Gradients) -> str:
            made = student(number)
            for step in range(length):
                order.append(("begins", number))
                batch = next(Pictures(0, 8).epoch(0))
                gradients(Step(made.network, Supervision(torch.arange(34) % 12, views, "float64"), batch, step))
                order.append(("ends", number))
            return f"student {number}"

        return run

    told: list[tuple[int, object, str]] = []
    train_together(
        [noted(0, 2), noted(1, 1)],
        ended=lambda number, outcome: told.append((number, outcome, threading.current_thread().name)),
    )
    begun = [("begins", 0), ("begins", 1), ("ends", 0), ("begins", 0), ("ends", 1), ("ends", 0)]
    assert order == begun
    here = threading.current_thread().name
    assert told == [(1, "student 1", here), (0, "student 0", here)]


def test_an_interrupt_reaches_every_training_and_then_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def watched(number: int) -> Callable[[Gradients], str]:
        def run(gradients: Gradients) -> str:
            try:
                return student(number).run(gradients)
            except KeyboardInterrupt:
                closed.append(number)
                raise

        return run

    def interrupted(self: BatchedNetwork, steps: list[Step]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchedNetwork, "gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_together([watched(0), watched(1)])
    assert closed == [0, 1]


def test_a_network_in_a_pack_is_where_it_was() -> None:
    """The same parameters, of the same values and layout: an optimiser made before holds them, and moves them."""
    networks = [student(number).network for number in range(2)]
    before = [list(network.parameters()) for network in networks]
    values = [[parameter.detach().clone() for parameter in parameters] for parameters in before]
    BatchedNetwork(networks)
    for network, parameters, known in zip(networks, before, values, strict=True):
        for now, then, value in zip(network.parameters(), parameters, known, strict=True):
            assert now is then
            assert torch.equal(now, value)
            assert now.stride() == value.stride()
    first, second = (network.encoder.get_parameter("features.0.weight") for network in networks)
    assert second.data_ptr() == first.data_ptr() + first.numel() * first.element_size()

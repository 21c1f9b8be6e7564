"""The teacher: how it follows its student, and what is done to its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.networks import TeacherSpec
from rt_scale.spec.run import RunSpec
from rt_scale.training.loop import Progress
from rt_scale.training.teacher import AS_THEY_ARE, Following, Sharpening

STEPS, STEPS_PER_EPOCH, SIZE = 8, 2, 8


def pair() -> tuple[Network, Network]:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": "batch"},
            "projector": {"hidden": [6], "bottleneck": 5, "out_dim": 7, "batch_norm": True},
            "student": {"alpha": 1.0},
        }
    )
    teacher, student = (network.double() for network in build_pair(spec, channels=1, size=SIZE))
    generator = torch.Generator().manual_seed(0)
    for buffer in student.buffers():  # statistics of a student that has seen images
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype) + 0.5)
        else:
            buffer.fill_(9)
    return teacher, student


def following(teacher: Network, student: nn.Module, **fields: Any) -> Following:
    return Following(TeacherSpec(**fields), teacher, student, steps=STEPS, steps_per_epoch=STEPS_PER_EPOCH)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


def mixed(one: dict[str, Tensor], other: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: share * one[name] + (1 - share) * other[name] for name in one}


IMAGES = torch.randn(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("momentum", "factors"),
    [
        (0.9, [0.9, 0.9, 0.9]),
        ("linear(0.5, 1)", [0.5, 0.5625, 0.625]),
        ("constant(0, 1ep) + constant(1)", [0.0, 0.0, 1.0]),
        (1.0, [1.0, 1.0, 1.0]),
    ],
)
def test_an_average_has_the_momentum_of_the_step_just_done(momentum: float | str, factors: list[float]) -> None:
    teacher, student = pair()
    hook = following(teacher, student, update="ema", momentum=momentum)
    expected = parameters(teacher)
    for step, factor in enumerate(factors):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.1 * (step + 1))
        expected = mixed(expected, parameters(student), factor)
        hook.after_step(Progress(0, step + 1))
        torch.testing.assert_close(parameters(teacher), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("update", ["ema", "previous_epoch"])
@pytest.mark.parametrize("choice", ["initial", "student", "data"])
def test_running_statistics_follow_where_they_are_to(update: str, choice: str) -> None:
    teacher, student = pair()
    hook = following(teacher, student, update=update, statistics=choice)
    share = 0.996 if update == "ema" else 0.0
    before = statistics(teacher)
    expected = mixed(before, statistics(student), share) if choice == "student" else before
    hook.after_step(Progress(0, 1))
    hook.after_epoch(Progress(1, 2), {})
    torch.testing.assert_close(statistics(teacher), expected, rtol=1e-13, atol=1e-15)


def test_a_teacher_of_the_epoch_before_moves_with_epochs_alone() -> None:
    teacher, student = pair()
    hook = following(teacher, student, update="previous_epoch")
    before = state(teacher)
    hook.after_step(Progress(0, 1))
    torch.testing.assert_close(state(teacher), before, rtol=0, atol=0)
    hook.after_epoch(Progress(1, 2), {})
    torch.testing.assert_close(parameters(teacher), parameters(student), rtol=0, atol=0)
    copied = parameters(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(parameters(teacher), copied, rtol=0, atol=0)  # a copy, not the student itself


def test_a_frozen_teacher_stays_and_an_average_does_not_move_with_epochs() -> None:
    for fields, steps in (({"update": "none"}, 1), ({"update": "ema"}, 0)):
        teacher, student = pair()
        hook = following(teacher, student, **fields)
        before = state(teacher)
        for step in range(steps):
            hook.after_step(Progress(0, step + 1))
        hook.after_epoch(Progress(1, 2), {"loss": 1.0})
        torch.testing.assert_close(state(teacher), before, rtol=0, atol=0)


def test_the_student_and_the_counts_of_batches_are_left_alone() -> None:
    for update in ("ema", "previous_epoch"):
        teacher, student = pair()
        hook = following(teacher, student, update=update, statistics="student")
        before, counts = state(student), [b for b in teacher.buffers() if not b.is_floating_point()]
        hook.after_step(Progress(0, 1))
        hook.after_epoch(Progress(1, 2), {})
        torch.testing.assert_close(state(student), before, rtol=0, atol=0)
        assert counts
        assert not any(count.any() for count in counts)
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_mode_is_the_specs(mode: str) -> None:
    teacher, student = pair()
    teacher.train(mode == "eval")
    following(teacher, student, mode=mode)
    assert {module.training for module in teacher.modules()} == {mode == "train"}
    assert all(module.training for module in student.modules())


@pytest.mark.parametrize(("choice", "moves"), [("initial", False), ("data", True)])
def test_a_pass_in_training_mode_moves_running_statistics_of_the_data_alone(choice: str, moves: bool) -> None:
    teacher, student = pair()
    following(teacher, student, mode="train", statistics=choice)
    before = statistics(teacher)
    outputs = teacher(IMAGES)
    for name, value in statistics(teacher).items():
        assert torch.equal(value, before[name]) != moves, name
    plain, _ = pair()
    torch.testing.assert_close(outputs, plain.train()(IMAGES).detach(), rtol=1e-13, atol=1e-15)
    assert {module.momentum for module in student.modules() if hasattr(module, "momentum")} == {0.1}


def test_every_following_teacher_can_be_a_shared_network() -> None:
    """A ViT whose block is shared is averaged once, not once a layer."""
    spec = RunSpec.model_validate(
        {
            "data": {"name": "x"},
            "encoder": {"name": "vit_tiny_shared", "width": 0.0625},
            "projector": {"hidden": [4]},
            "student": {"alpha": 1.0},
        }
    )
    teacher, student = (network.double() for network in build_pair(spec, channels=3, size=32))
    expected = mixed(parameters(teacher), parameters(student), 0.5)
    following(teacher, student, update="ema", momentum=0.5).after_step(Progress(0, 1))
    torch.testing.assert_close(parameters(teacher), expected, rtol=1e-13, atol=1e-15)


def logits(seed: int = 0, rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_either_the_logits_are_the_very_same() -> None:
    assert set(AS_THEY_ARE) == {"teacher", "student"}
    for sharpening in (*AS_THEY_ARE.values(), Sharpening("constant(1)", None, steps=3)):
        z = logits()
        assert sharpening(z, 0) is z
        assert sharpening.centre is None


def test_temperatures_divide() -> None:
    sharpening = Sharpening("linear(0.5, 0.1)", steps=4, steps_per_epoch=2)
    for step, temperature in enumerate([0.5, 0.4, 0.3, 0.2]):
        torch.testing.assert_close(sharpening(logits(), step), logits() / temperature)
    torch.testing.assert_close(Sharpening(0.04)(logits(), 7), logits() / 0.04)
    assert sharpening.centre is None


def test_the_centre_is_that_of_the_batches_before() -> None:
    sharpening = Sharpening(center=0.75)
    first, second, third = logits(1), logits(2, rows=6), logits(3)
    torch.testing.assert_close(sharpening(first, 0), first)
    after_one = 0.25 * first.mean(0)
    torch.testing.assert_close(sharpening.centre, after_one)
    torch.testing.assert_close(sharpening(second, 1), second - after_one)
    after_two = 0.75 * after_one + 0.25 * second.mean(0)
    torch.testing.assert_close(sharpening(third, 2), third - after_two)
    torch.testing.assert_close(sharpening.centre, 0.75 * after_two + 0.25 * third.mean(0))


def test_the_centre_is_taken_off_before_the_division_and_made_of_plain_logits() -> None:
    sharpening = Sharpening(0.5, 0.9)
    sharpening.centre = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    centre = sharpening.centre.clone()
    torch.testing.assert_close(sharpening(logits(), 0), (logits() - centre) / 0.5)
    torch.testing.assert_close(sharpening.centre, 0.9 * centre + 0.1 * logits().mean(0))


@pytest.mark.parametrize(
    ("momentum", "factors"), [("linear(0, 1)", [0, 0.25, 0.5, 0.75]), (1.0, [1] * 4), (0.0, [0] * 4)]
)
def test_the_centres_momentum_is_that_of_the_step(momentum: float | str, factors: list[float]) -> None:
    sharpening = Sharpening(center=momentum, steps=4, steps_per_epoch=2)
    centre = torch.zeros(3, dtype=torch.float64)
    for step, factor in enumerate(factors):
        sharpening(logits(step), step)
        centre = factor * centre + (1 - factor) * logits(step).mean(0)
        torch.testing.assert_close(sharpening.centre, centre)


@pytest.mark.parametrize("length", ["1ep", "2it", "50%"])
def test_lengths_count_steps_epochs_and_shares(length: str) -> None:
    sharpening = Sharpening(f"constant(0.5, {length}) + constant(0.25)", steps=4, steps_per_epoch=2)
    for step, temperature in enumerate([0.5, 0.5, 0.25, 0.25]):
        torch.testing.assert_close(sharpening(logits(), step), logits() / temperature)


def test_a_step_out_of_order_has_its_own_numbers() -> None:
    """A resumed run begins in the middle."""
    resumed = Sharpening("linear(0.5, 0.1)", "linear(0, 1)", steps=4)
    torch.testing.assert_close(resumed(logits(), 3), logits() / 0.2)
    torch.testing.assert_close(resumed.centre, 0.25 * logits().mean(0))


def test_gradients_do_not_reach_the_centre() -> None:
    sharpening = Sharpening(0.5, 0.5)
    sharpening(logits(1).requires_grad_(), 0)
    assert not sharpening.centre.requires_grad
    z = logits(2).requires_grad_()
    (gradient,) = torch.autograd.grad(sharpening(z, 1).sum(), z)
    torch.testing.assert_close(gradient, torch.full_like(z, 2.0))


def test_a_centre_has_the_dtype_of_the_logits_and_arguments_stay() -> None:
    sharpening, z = Sharpening(0.5, 0.5), logits().float()
    sharpening(z, 0)
    assert sharpening.centre.dtype == torch.float32
    assert torch.equal(z, logits().float())

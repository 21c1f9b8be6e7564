from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.training.objective import cross_entropy


def logits(batch: int = 5, outputs: int = 11, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, outputs, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("ours", "theirs"), [((5, 11), (5, 12)), ((5, 11), (4, 11)), ((5, 11), (1, 11))])
def test_shapes_that_differ_are_refused(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        cross_entropy(torch.zeros(ours), torch.zeros(theirs))


@pytest.mark.parametrize("outputs", [1, 2, 1000])
def test_where_student_and_teacher_agree_the_loss_is_the_entropy_and_the_gradient_nothing(outputs: int) -> None:
    teacher = logits(outputs=outputs)
    student = teacher.clone().requires_grad_()
    measured = cross_entropy(student, teacher)
    assert torch.equal(measured.loss, measured.teacher_entropy)
    assert torch.equal(measured.loss, measured.student_entropy)
    (gradient,) = torch.autograd.grad(measured.loss, student)
    assert not gradient.any()


def test_arguments_are_not_changed() -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    cross_entropy(student, teacher).loss.backward()
    assert torch.equal(student, logits(seed=1))
    assert torch.equal(teacher, logits(seed=2))


def test_only_the_loss_has_a_gradient_and_only_to_the_student() -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    measured = cross_entropy(student, teacher)
    assert measured.loss.requires_grad
    assert not measured.teacher_entropy.requires_grad
    assert not measured.student_entropy.requires_grad
    measured.loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_gradient_scales_with_the_loss() -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    (once,) = torch.autograd.grad(cross_entropy(student, teacher).loss, student)
    (twice,) = torch.autograd.grad(2 * cross_entropy(student, teacher).loss, student)
    assert torch.equal(twice, 2 * once)


def test_a_second_backward_pass_is_refused_not_wrong() -> None:
    student = logits(seed=1).requires_grad_()
    loss = cross_entropy(student, logits(seed=2)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_one_tensor_of_the_logits_size_is_kept_for_the_backward_pass() -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    student, teacher = logits(outputs=1000, seed=1).requires_grad_(), logits(outputs=1000, seed=2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        cross_entropy(student, teacher)
    assert [tensor.shape for tensor in kept] == [student.shape]


def test_the_same_twice_to_the_last_bit() -> None:
    def once() -> tuple[Tensor, ...]:
        student = logits(64, 2048, seed=1).requires_grad_()
        measured = cross_entropy(student, logits(64, 2048, seed=2))
        return (*measured, *torch.autograd.grad(measured.loss, student))

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))

"""The objective against its formula (paper, appendices A and D), written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.training.objective import cross_entropy


def drawn(batch: int, outputs: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, outputs, generator=generator, dtype=torch.float64) * scale
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def formula(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, teacher entropy and student entropy in float64, term by term."""
    log_p, log_t = torch.log_softmax(student.double(), 1), torch.log_softmax(teacher.double(), 1)
    return tuple(-(q.exp() * log_q).sum(1).mean() for q, log_q in ((log_t, log_p), (log_t, log_t), (log_p, log_p)))  # type: ignore[return-value]


# 0.0625 is the spread of the projector's cosines at k = 256, 30 that of a sharp distribution.
@pytest.mark.parametrize("scale", [0.0625, 1.0, 30.0])
@pytest.mark.parametrize(("batch", "outputs"), [(1, 1), (3, 2), (7, 4096), (2, 65536)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_entropies_and_gradient(
    scale: float, batch: int, outputs: int, dtype: torch.dtype, tolerance: float
) -> None:
    student, teacher = drawn(batch, outputs, scale, dtype)
    measured = cross_entropy(student, teacher)
    (gradient,) = torch.autograd.grad(measured.loss, student)
    exact = student.detach().double().requires_grad_()
    expected = formula(exact, teacher)
    (expected_gradient,) = torch.autograd.grad(expected[0], exact)
    # The values are differences of a log-normaliser and a mean logit, so rounding is relative to the logits.
    absolute = tolerance * max(1.0, float(torch.cat((student, teacher)).detach().abs().max()))
    for mine, theirs in zip(measured, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=absolute)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=20 * tolerance, atol=tolerance / batch)


def test_kl_is_the_loss_less_the_teachers_entropy() -> None:
    student, teacher = drawn(7, 4096, 1.0, torch.float64)
    measured = cross_entropy(student, teacher)
    kl = torch.nn.functional.kl_div(
        torch.log_softmax(student, 1), torch.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(measured.loss - measured.teacher_entropy, kl, rtol=1e-12, atol=1e-12)


def test_gradient_by_finite_differences() -> None:
    student, teacher = drawn(3, 5, 1.0, torch.float64)
    (gradient,) = torch.autograd.grad(cross_entropy(student, teacher).loss, student)
    step = 1e-6
    for row in range(3):
        for column in range(5):
            change = torch.zeros(3, 5, dtype=torch.float64)
            change[row, column] = step
            above = cross_entropy(student.detach() + change, teacher).loss
            below = cross_entropy(student.detach() - change, teacher).loss
            assert float(gradient[row, column]) == pytest.approx(float(above - below) / (2 * step), abs=1e-9)


def test_uniform_logits_give_the_largest_entropy() -> None:
    measured = cross_entropy(torch.zeros(2, 65536, dtype=torch.float64), torch.zeros(2, 65536, dtype=torch.float64))
    largest = torch.full((), 65536.0, dtype=torch.float64).log()
    for value in measured:
        torch.testing.assert_close(value, largest, rtol=1e-12, atol=0)

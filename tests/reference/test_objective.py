"""The objectives against their formulas (paper, appendices A and D), written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.losses.distances import Pair, distance, view_pairs
from rt_scale.models.networks import initialise
from rt_scale.models.projector import Projector
from rt_scale.spec.networks import ProjectorSpec

NAMES = ("cross_entropy", "kl", "mse")


def drawn(
    batch: int, outputs: int, scale: float = 1.0, dtype: torch.dtype = torch.float64, views: tuple[int, int] = (1, 1)
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teachers, students = views
    rows = torch.randn((teachers + students) * batch, outputs, generator=generator, dtype=torch.float64) * scale
    return rows[teachers * batch :].to(dtype).requires_grad_(), rows[: teachers * batch].to(dtype)


def formula(name: str, student: Tensor, teacher: Tensor, pairs: list[Pair]) -> tuple[Tensor, ...]:
    """Loss, KL, teacher and student entropy in float64, image by image of every pair of views."""
    batch = len(teacher) // (1 + max(i for i, _ in pairs))
    found = []
    for i, j in pairs:
        for row in range(batch):
            z_t, z_s = teacher[i * batch + row].double(), student[j * batch + row].double()
            log_t, log_s = z_t - z_t.logsumexp(0), z_s - z_s.logsumexp(0)
            cross, entropy = -(log_t.exp() * log_s).sum(), -(log_t.exp() * log_t).sum()
            kl = (log_t.exp() * (log_t - log_s)).sum()
            loss = {"cross_entropy": cross, "kl": kl, "mse": (z_s - z_t).square().mean()}[name]
            found.append(torch.stack([loss, kl, entropy, -(log_s.exp() * log_s).sum()]))
    return torch.stack(found).mean(0).unbind()


def assert_is_its_formula(name: str, student: Tensor, teacher: Tensor, pairs: list[Pair], tolerance: float) -> None:
    measured = distance(name, student, teacher, pairs)
    (gradient,) = torch.autograd.grad(measured.loss, student)
    exact = student.detach().double().requires_grad_()
    expected = formula(name, exact, teacher, pairs)
    (expected_gradient,) = torch.autograd.grad(expected[0], exact)
    # The values are differences of a log-normaliser and a mean logit, so rounding is relative to the logits.
    largest = max(1.0, float(torch.cat((student, teacher)).detach().abs().max()))
    for mine, theirs in zip(measured, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * largest)
    absolute = tolerance * len(pairs) / len(student)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=20 * tolerance, atol=absolute)


PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 2e-6)]


# 0.0625 is the spread of the projector's cosines at k = 256, 30 that of a sharp distribution.
@pytest.mark.parametrize("scale", [0.0625, 1.0, 30.0])
@pytest.mark.parametrize(("batch", "outputs"), [(1, 1), (3, 2), (7, 4096), (2, 65536)])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradient_of_one_view(
    name: str, scale: float, batch: int, outputs: int, dtype: torch.dtype, tolerance: float
) -> None:
    assert_is_its_formula(name, *drawn(batch, outputs, scale, dtype), [(0, 0)], tolerance)


VIEWS = [("same", 2, 2), ("opposite", 2, 2), ("opposite", 2, 5), ("opposite", 1, 3), ("all", 1, 3), ("all", 3, 4)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("pairing", "teachers", "students"), VIEWS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradient_of_every_pairing_of_views(
    name: str, pairing: str, teachers: int, students: int, dtype: torch.dtype, tolerance: float
) -> None:
    pairs = list(view_pairs(pairing, teachers, students))
    assert_is_its_formula(name, *drawn(3, 17, 1.0, dtype, (teachers, students)), pairs, tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pairs", [[(0, 0)], [(0, 1), (1, 0), (0, 2), (1, 2)]])
def test_gradient_by_finite_differences(name: str, pairs: list[Pair]) -> None:
    views = tuple(1 + max(pair[side] for pair in pairs) for side in (0, 1))
    student, teacher = drawn(2, 5, views=views)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(distance(name, student, teacher, pairs).loss, student)
    step = 1e-6
    for row in range(len(student)):
        for column in range(5):
            change = torch.zeros_like(student)
            change[row, column] = step
            above = distance(name, student.detach() + change, teacher, pairs).loss
            below = distance(name, student.detach() - change, teacher, pairs).loss
            assert float(gradient[row, column]) == pytest.approx(float(above - below) / (2 * step), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_kl_is_cross_entropy_less_the_teachers_entropy_whatever_is_minimised(name: str) -> None:
    student, teacher = drawn(7, 4096)
    kl = torch.nn.functional.kl_div(
        torch.log_softmax(student, 1), torch.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(distance(name, student, teacher).kl, kl.detach(), rtol=1e-12, atol=1e-12)


def test_cross_entropy_and_kl_have_one_gradient() -> None:
    student, teacher = drawn(3, 11, views=(2, 4))
    pairs = view_pairs("opposite", 2, 4)
    ours, theirs = (torch.autograd.grad(distance(name, student, teacher, pairs).loss, student)[0] for name in NAMES[:2])
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("outputs", [1, 2, 1000])
@pytest.mark.parametrize("views", [1, 3])
def test_at_equality_the_loss_is_the_teachers_entropy_and_nothing_is_left_to_learn(outputs: int, views: int) -> None:
    _, teacher = drawn(4, outputs, views=(views, 1))
    pairs = view_pairs("same", views, views)
    least = {}
    for name in NAMES:
        student = teacher.clone().requires_grad_()
        measured = distance(name, student, teacher, pairs)
        (gradient,) = torch.autograd.grad(measured.loss, student)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-16)
        torch.testing.assert_close(measured.kl, torch.zeros_like(measured.kl), rtol=0, atol=1e-14)
        torch.testing.assert_close(measured.student_entropy, measured.teacher_entropy, rtol=1e-14, atol=0)
        least[name] = measured.loss.detach()
        entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
        torch.testing.assert_close(measured.teacher_entropy, entropy, rtol=1e-13, atol=1e-14)
    expected = {"cross_entropy": entropy, "kl": torch.zeros_like(entropy), "mse": torch.zeros_like(entropy)}
    torch.testing.assert_close(least, expected, rtol=1e-13, atol=1e-14)


def test_uniform_logits_give_the_largest_entropy() -> None:
    zeros = torch.zeros(2, 65536, dtype=torch.float64)
    measured = distance("cross_entropy", zeros, zeros)
    largest = torch.full((), 65536.0, dtype=torch.float64).log()
    for value in (measured.loss, measured.teacher_entropy, measured.student_entropy):
        torch.testing.assert_close(value, largest, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["cross_entropy", "kl"])
def test_distributions_do_not_see_a_shift_of_all_logits(name: str) -> None:
    student, teacher = drawn(3, 11)
    shifted = distance(name, student + 3, teacher - 2)
    torch.testing.assert_close(shifted, distance(name, student, teacher), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(distance(name, student, teacher).loss, student)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)


def losses(name: str, projector: Projector, embeddings: Tensor, teacher: Tensor) -> Tensor:
    return distance(name, projector(embeddings), teacher).loss


# Of each norm alone: what may be scaled, rows of a weight apart or layers as a whole.
SCALE_FREE = {
    "weight_norm_1": ("wn/lb/-/-/-/-", ["bottleneck.weight"], True),
    "feature_norm_1": ("-/lb/fn/-/l/-", ["bottleneck.weight", "bottleneck.bias"], False),
    "weight_norm_2": ("-/lb/-/wn/l/-", ["last.weight"], True),
    "feature_norm_2": ("-/lb/-/-/l/fn", ["last.weight"], False),
}


@pytest.mark.parametrize("norm", SCALE_FREE)
@pytest.mark.parametrize("name", NAMES)
def test_a_norm_makes_every_objective_blind_to_a_scale(name: str, norm: str) -> None:
    """The loss is the same at any scale, so its gradient is orthogonal to what is scaled."""
    parts, scaled, by_row = SCALE_FREE[norm]
    generator = torch.Generator().manual_seed(0)
    spec = ProjectorSpec(hidden=(5,), bottleneck=4, out_dim=7, parts=parts)
    projector = initialise(Projector(6, spec), generator, linear="torch").double()
    embeddings, teacher = (torch.randn(3, n, generator=generator, dtype=torch.float64) for n in (6, 7))
    parameters = [projector.get_parameter(each) for each in scaled]
    loss = distance(name, projector(embeddings), teacher).loss
    gradients = torch.autograd.grad(loss, parameters)
    assert min(float(gradient.norm()) for gradient in gradients) > 1e-4
    along = [
        (gradient * parameter).flatten(1 if by_row else 0).sum(-1)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    torch.testing.assert_close(sum(along), torch.zeros_like(along[0]), rtol=0, atol=1e-15)
    with torch.no_grad():
        factors = torch.rand(len(parameters[0]), 1, generator=generator, dtype=torch.float64) + 0.5
        for parameter in parameters:
            parameter.mul_(factors if by_row else 3.0)
    torch.testing.assert_close(distance(name, projector(embeddings), teacher).loss, loss, rtol=1e-13, atol=0)

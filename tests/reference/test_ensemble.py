"""Several teachers: the target is the mean of their probabilities, and loss and gradient are those of that target."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.losses.kl import mean_softmax
from rt_scale.models.networks import Network, build_others, build_pair
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Distillation
from rt_scale.training.teacher import Sharpening
from tests.reference.agreement import run_spec
from tests.reference.naive_method import softmax


def test_the_mean_of_softmaxes_has_a_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(4, 6, generator=generator, dtype=torch.float64) * scale for scale in (1.0, 5.0, 0.1)]
    expected = sum(softmax(each) for each in logits) / 3
    torch.testing.assert_close(mean_softmax(iter(logits)).softmax(dim=1), expected)
    assert mean_softmax(logits[:1]) is logits[0]
    extreme = [torch.tensor([[1e4, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1e4]], dtype=torch.float64)]
    torch.testing.assert_close(mean_softmax(extreme).softmax(dim=1), torch.full((1, 2), 0.5, dtype=torch.float64))


def plain(
    name: str, teachers: list[Network], student: Network, x: Tensor, taus: tuple[float, float]
) -> dict[str, Tensor]:
    target = torch.stack([softmax(teacher(x).detach() / taus[0]) for teacher in teachers]).mean(dim=0)
    prediction = softmax(student(x) / taus[1])
    entropy, cross = -(target * target.log()).sum(1).mean(), -(target * prediction.log()).sum(1).mean()
    kl = (target * (target / prediction).log()).sum(1).mean()
    own = -(prediction * prediction.log()).sum(1).mean()
    return {"loss": kl if name == "kl" else cross, "kl": kl, "teacher_entropy": entropy, "student_entropy": own}


@pytest.mark.parametrize(("name", "cached"), list(itertools.product(["cross_entropy", "kl"], [True, False])))
@pytest.mark.parametrize("taus", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_loss_and_gradient(name: str, cached: bool, taus: tuple[float, float], count: int) -> None:
    spec = run_spec(teacher={"count": count}, projector={"init": "torch"}, objective={"name": name}, train={})
    pair = build_pair(spec, 1, 6)
    teachers = [each.double() for each in (pair.teacher, *build_others(spec, 1, 6))]
    student = pair.student.double()
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch = Batch(torch.zeros(3, 6, 6, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    targets = [CachedTargets(each, [batch], 3, lambda _: x) if cached else ComputedTargets(each) for each in teachers]
    sharpenings = {"teacher": Sharpening(taus[0]), "student": Sharpening(taus[1])}
    objective = Distillation(
        targets[0], lambda images, step: (x,), "float64", name=name, sharpenings=sharpenings, others=targets[1:]
    )
    measured = objective(student, batch, 0)
    found = torch.autograd.grad(measured.loss, list(student.parameters()))
    expected = plain(name, teachers, student, x, taus)
    for key, value in {"loss": measured.loss, **measured.metrics}.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(expected["loss"], list(student.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)

"""Every form of KL in float32, for networks that nearly agree, against its formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.losses import kl
from rt_scale.losses.chunked import wide_distance
from rt_scale.losses.distances import ONE_VIEW, Pair, distance, view_pairs
from rt_scale.models.projector import Outputs
from rt_scale.training.teacher import Sharpening

APART = [1.5e-6, 1e-5, 3e-4, 6e-4, 1e-2, 0.3, 3.0]
"""Standard deviations of the difference of logits; KL is about half their square, from 1e-12 on."""
SPREADS = [0.0625, 1.0, 8.0]
"""Standard deviations of logits: of a projector's cosines at k = 256, and of sharp distributions."""
EXACT = 5e-4
"""Relative; asked for is 1e-2."""


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_j t_j (log t_j - log s_j), [B] in float64; right to 1e-15."""
    log_t, log_s = (torch.log_softmax(each.detach().double(), dim=1) for each in (teacher, student))
    return (log_t.exp() * (log_t - log_s)).sum(dim=1)


def drawn(apart: float, spread: float, outputs: int, rows: int = 4, views: int = 1) -> tuple[Tensor, Tensor]:
    """Student and teacher logits [V B, m]; all views of an image are near each other."""
    generator = torch.Generator().manual_seed(outputs)
    base = (torch.randn(rows, outputs, generator=generator) * spread).repeat(views, 1)
    return tuple(base + apart * torch.randn(base.shape, generator=generator) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("apart", APART)
@pytest.mark.parametrize("outputs", [10, 1000, 65536])
def test_of_logits(outputs: int, apart: float, spread: float) -> None:
    student, teacher = drawn(apart, spread, outputs)
    expected = formula(student, teacher).mean().item()
    for name in ("cross_entropy", "kl", "mse"):
        measured = distance(name, student, teacher)
        assert measured.kl.item() == pytest.approx(expected, rel=EXACT)
        if name == "kl":
            assert measured.loss.item() == measured.kl.item()


@pytest.mark.parametrize("outputs", [3, 700])
def test_of_rows_in_blocks(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's, whatever its neighbours', from 1e-12 to 1e2."""
    monkeypatch.setattr(kl, "BLOCK", 2 * outputs)
    student, teacher = (torch.cat(each) for each in zip(*(drawn(a, 1.0, outputs) for a in (*APART, 80)), strict=True))
    probabilities, normalisers, entropies = kl.softmax_rows(teacher)
    own = kl.softmax_rows(student)[1]
    found = kl.kl_rows(student, teacher, probabilities, own - normalisers)
    torch.testing.assert_close(found.double(), formula(student, teacher), rtol=EXACT, atol=1e-13)
    expected = torch.distributions.Categorical(logits=teacher.double()).entropy()
    torch.testing.assert_close(entropies.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("apart", [1.5e-6, 1e-3, 1.0])
@pytest.mark.parametrize("pairing", ["same", "opposite", "all"])
def test_of_pairs_of_views(pairing: str, apart: float) -> None:
    student, teacher = drawn(apart, 1.0, 500, views=3)
    pairs: tuple[Pair, ...] = view_pairs(pairing, 2, 3)
    student, teacher = student[: 4 * (1 + max(j for _, j in pairs))], teacher[:8]
    each = [formula(student[4 * j : 4 * j + 4], teacher[4 * i : 4 * i + 4]) for i, j in pairs]
    found = distance("cross_entropy", student, teacher, pairs).kl.item()
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=EXACT)


@pytest.mark.parametrize("apart", [2e-6, 1e-3, 1.0])
def test_after_temperatures_and_centres(apart: float) -> None:
    """Between logits as they are after centring and division, in float32."""
    logits = [each.float() for each in drawn(apart, 1.0, 500)]
    sharpenings = [Sharpening(0.5, 0.9), Sharpening(0.5, 0.9)]
    for step in range(2):
        student, teacher = (sharpen(each, step) for sharpen, each in zip(sharpenings, logits, strict=True))
    found = distance("cross_entropy", student, teacher, ONE_VIEW).kl.item()
    assert found == pytest.approx(formula(student, teacher).mean().item(), rel=EXACT)


@pytest.mark.parametrize("columns", [1, 64, 300, 1000])
@pytest.mark.parametrize("apart", APART)
def test_by_tiles(apart: float, columns: int) -> None:
    """With one feature, 1, and a weight of the logits, tiles make just these logits."""
    student, teacher = (each[:1].T.contiguous() for each in drawn(apart, 1.0, 1000))
    ones = torch.ones(1, 1)
    found = wide_distance("kl", Outputs(ones, student), Outputs(ones, teacher), columns=columns)
    expected = formula(student.T, teacher.T).item()
    assert found.kl.item() == pytest.approx(expected, rel=EXACT)
    assert found.loss.item() == found.kl.item()


@pytest.mark.parametrize("columns", [7, 1000])
def test_tiles_that_differ_by_more_than_a_number_holds(columns: int) -> None:
    student, teacher = (each[:1].T.contiguous() for each in drawn(60.0, 30.0, 1000))
    ones = torch.ones(1, 1)
    found = wide_distance("kl", Outputs(ones, student), Outputs(ones, teacher), columns=columns).kl.item()
    assert found == pytest.approx(formula(student.T, teacher.T).item(), rel=1e-5)


def test_the_trained_cross_entropy_and_its_gradient_have_the_bits_of_their_formulas() -> None:
    student, teacher = drawn(1e-3, 1.0, 1000)
    student.requires_grad_()
    target, softmax = torch.softmax(teacher, dim=1), torch.softmax(student.detach(), dim=1)
    normaliser = student.detach().amax(dim=1) - softmax.amax(dim=1).log()
    weights = torch.full((4,), 1 / 4)
    rows = normaliser - torch.bmm(target[:, None], student.detach()[:, :, None]).flatten()
    loss = distance("cross_entropy", student, teacher).loss
    assert torch.equal(loss.detach(), torch.dot(weights, rows))
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.equal(gradient, (softmax - target) / 4)


def test_a_number_that_is_none_is_seen() -> None:
    student, teacher = drawn(1e-3, 1.0, 10)
    student[1, 2] = torch.nan
    assert torch.isnan(distance("cross_entropy", student, teacher).kl)

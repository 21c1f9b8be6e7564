from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rt_scale.losses.supervised import supervised_cross_entropy


def _drawn(batch: int, classes: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * scale
    return logits.to(dtype).requires_grad_(), torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (3, 2), (64, 10), (7, 1000)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_gradient_and_accuracy(
    scale: float, batch: int, classes: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Loss log sum exp(z) - z_label and gradient (softmax - one-hot) / B, sample by sample in float64."""
    logits, labels = _drawn(batch, classes, scale, dtype)
    loss, accuracy = supervised_cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    losses, slopes, hits = [], [], 0
    for row, label in zip(logits.detach().tolist(), labels.tolist(), strict=True):
        largest = max(row)
        weights = [math.exp(value - largest) for value in row]
        losses.append(largest + math.log(sum(weights)) - row[label])
        slopes.append([(w / sum(weights) - (k == label)) / batch for k, w in enumerate(weights)])
        hits += row[label] == largest
    assert loss.item() == pytest.approx(sum(losses) / batch, rel=tolerance, abs=scale * tolerance)
    assert accuracy.item() == pytest.approx(hits / batch, rel=1e-6)
    torch.testing.assert_close(gradient.double(), torch.tensor(slopes).double(), rtol=1e-4, atol=1e-6)
    assert loss.shape == accuracy.shape == ()
    assert loss.dtype == accuracy.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = _drawn(64, 100, 3.0, dtype)
    loss, accuracy = supervised_cross_entropy(logits, labels)
    exact, _ = supervised_cross_entropy(logits.detach().double(), labels)
    assert loss.dtype == accuracy.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.dtype == dtype


def test_autocast_does_not_shorten_it() -> None:
    logits, labels = _drawn(64, 100, 3.0, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = supervised_cross_entropy(logits, labels)
    assert torch.equal(loss, supervised_cross_entropy(logits, labels)[0])


def test_labels_decide() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    right, half, wrong = (supervised_cross_entropy(logits, torch.tensor(labels)) for labels in ([0, 1], [0, 0], [1, 0]))
    assert [accuracy.item() for _, accuracy in (right, half, wrong)] == [1.0, 0.5, 0.0]
    assert right[0] < half[0] < wrong[0]


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    loss, _ = supervised_cross_entropy(torch.zeros(4, 10), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(10))


def test_only_the_loss_has_a_gradient_and_arguments_are_not_changed() -> None:
    logits, labels = _drawn(5, 3, 1.0, torch.float32)
    loss, accuracy = supervised_cross_entropy(logits, labels)
    assert loss.requires_grad
    assert not accuracy.requires_grad
    loss.backward()
    again, same = _drawn(5, 3, 1.0, torch.float32)
    assert torch.equal(logits, again)
    assert torch.equal(labels, same)

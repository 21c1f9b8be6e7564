"""The objective of distillation as the loop takes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.loader import Batch
from rt_scale.training.distillation import Distillation, arithmetic, parameter_dtype


class Fixed:
    """Targets that depend on the positions alone."""

    def __call__(self, inputs: Tensor, index: Tensor) -> Tensor:
        return torch.stack([index.to(inputs.dtype), -index.to(inputs.dtype)], dim=1)


def to_inputs(images: Tensor) -> Tensor:
    return images.float().flatten(1) / 255


def batch() -> Batch:
    images = torch.arange(12, dtype=torch.uint8).view(3, 2, 2, 1) * 20
    return Batch(images, torch.tensor([0, 1, 0]), torch.tensor([2, 0, 1]))


def student() -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, 4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -0.2, 0.5, 0.1], [-0.4, 0.2, 0.1, 0.7]]))
        layer.bias.zero_()
    return layer


def test_loss_and_metrics_are_those_of_the_formula() -> None:
    measured = Distillation(Fixed(), to_inputs, "float32")(student(), batch())
    targets = torch.softmax(torch.tensor([[2.0, -2.0], [0.0, 0.0], [1.0, -1.0]]), dim=1)
    log_p = torch.log_softmax(student()(to_inputs(batch().images)), dim=1).detach()
    entropy = -(targets * targets.log()).sum(1).mean()
    assert measured.loss.item() == pytest.approx(-(targets * log_p).sum(1).mean().item(), rel=1e-6)
    assert measured.metrics["teacher_entropy"].item() == pytest.approx(entropy.item(), rel=1e-6)
    expected = torch.nn.functional.kl_div(log_p, targets, reduction="batchmean").item()
    assert measured.metrics["kl"].item() == pytest.approx(expected, rel=1e-5)
    assert measured.metrics["student_entropy"].item() == pytest.approx(-(log_p.exp() * log_p).sum(1).mean().item())
    assert measured.loss.requires_grad
    assert not any(value.requires_grad for name, value in measured.metrics.items() if name != "kl")


def test_precision_decides_dtypes() -> None:
    assert parameter_dtype("float64") == torch.float64
    assert parameter_dtype("float32") == parameter_dtype("bf16") == torch.float32
    layer, inputs = student(), torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    with arithmetic("bf16", device):
        assert layer(inputs).dtype == torch.bfloat16
    with arithmetic("float32", device):
        assert layer(inputs).dtype == torch.float32
    exact = Distillation(Fixed(), to_inputs, "float32")(layer, batch()).loss
    rounded = Distillation(Fixed(), to_inputs, "bf16")(layer, batch()).loss
    assert rounded.dtype == torch.float32
    assert exact.item() != rounded.item()
    assert exact.item() == pytest.approx(rounded.item(), rel=2e-2)

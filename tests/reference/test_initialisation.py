"""The distributions of the initialisation, and the variance that local initialisation keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rt_scale.models.init import initialise, local_initialisation
from rt_scale.models.pair import build_pair
from rt_scale.spec.run import RunSpec


def assert_normal(values: torch.Tensor, sigma: float) -> None:
    """Mean, deviation, fourth moment and extremes of a normal sample, each within about 5 standard errors."""
    z, n = values.double().flatten() / sigma, values.numel()
    assert abs(z.mean().item()) < 5 / math.sqrt(n)
    assert abs(z.std().item() - 1) < 5 / math.sqrt(2 * n)
    assert abs((z**4).mean().item() - 3) < 5 * math.sqrt(96 / n)
    assert math.sqrt(2 * math.log(n)) - 1.5 < z.abs().max().item() < math.sqrt(2 * math.log(n)) + 2


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(64, 128, 3), (256, 64, 1), (3, 512, 3)])
def test_convolutions_are_kaiming_normal_by_fan_out(inputs: int, outputs: int, kernel: int) -> None:
    layer = initialise(nn.Conv2d(inputs, outputs, kernel), torch.Generator().manual_seed(0))
    assert_normal(layer.weight, math.sqrt(2 / (outputs * kernel**2)))


@pytest.mark.parametrize(("inputs", "outputs"), [(512, 2048), (256, 65536)])
def test_linear_weights_have_deviation_one_fiftieth(inputs: int, outputs: int) -> None:
    layer = initialise(nn.Linear(inputs, outputs), torch.Generator().manual_seed(0))
    assert_normal(layer.weight, 0.02)
    assert (layer.bias == 0).all()


@pytest.mark.parametrize("alpha", [1e-10, 0.2, 0.5, 0.9, 1.0])
def test_local_initialisation_keeps_the_variance(alpha: float) -> None:
    teacher, fresh = (initialise(nn.Linear(512, 512), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert_normal(local_initialisation(teacher, fresh, alpha).weight, 0.02)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_the_correlation_with_the_teacher_is_its_share(alpha: float) -> None:
    teacher, fresh = (initialise(nn.Linear(512, 512), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    student = local_initialisation(teacher, fresh, alpha)
    stacked = torch.stack([teacher.weight.flatten(), student.weight.flatten()])
    expected = (1 - alpha) / math.sqrt(alpha**2 + (1 - alpha) ** 2)
    assert torch.corrcoef(stacked)[0, 1].item() == pytest.approx(expected, abs=5 / 512)


@pytest.mark.parametrize("alpha", [0.0, 1e-10, 0.3, 0.5, 1.0])
def test_every_parameter_follows_the_formula(alpha: float) -> None:
    """Against the formula in float64; norm scales become (1 - alpha + alpha) / delta = 1 / delta."""
    base = {
        "data": {"name": "digits"},
        "encoder": {"name": "resnet18", "width": 0.0625},
        "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 6},
    }
    teacher, student = build_pair(RunSpec.model_validate(base | {"student": {"alpha": alpha}}), 3, 32)
    _, fresh = build_pair(RunSpec.model_validate(base | {"student": {"alpha": 1.0}}), 3, 32)
    delta = math.sqrt(alpha**2 + (1 - alpha) ** 2)
    for name, parameter in student.named_parameters():
        t, f = teacher.get_parameter(name).double(), fresh.get_parameter(name).double()
        torch.testing.assert_close(
            parameter.double(), ((1 - alpha) * t + alpha * f) / delta, rtol=1e-6, atol=1e-7
        )
    scale = student.get_parameter("encoder.bn1.weight")
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / delta))

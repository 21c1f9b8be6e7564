"""The distributions of the initialisation, and the variance that local initialisation keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rt_scale.models.encoder import NORM_LAYERS
from rt_scale.models.networks import build_pair, initialise, local_initialisation, neighbourhood_initialisation
from rt_scale.models.plain import MLP
from rt_scale.models.vit import ViT
from rt_scale.spec.errors import InputError
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


@pytest.mark.parametrize(("inputs", "outputs"), [(768, 512), (512, 512)])
def test_an_mlp_encoders_layers_are_drawn_as_convolutions_are(inputs: int, outputs: int) -> None:
    encoder = initialise(MLP(inputs=inputs, units=outputs, depth=1), torch.Generator().manual_seed(0))
    assert_normal(encoder.layers[0].weight, math.sqrt(2 / outputs))
    assert (encoder.layers[0].bias == 0).all()


def test_an_mlp_keeps_the_scale_of_its_embedding_at_any_depth() -> None:
    images = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    scales = []
    for depth in (2, 8):
        encoder = initialise(MLP(inputs=256, units=512, depth=depth), torch.Generator().manual_seed(0))
        scales.append(encoder(images).square().mean().sqrt().item())
    assert scales[1] == pytest.approx(scales[0], rel=0.3)


@pytest.mark.parametrize(("shared", "over_heads"), [(False, False), (True, False), (True, True)])
def test_all_of_a_vit_has_deviation_one_fiftieth(shared: bool, over_heads: bool) -> None:
    """Weights, class token and positions; biases 0, layer norms 1 and 0. Nothing else is left."""
    encoder = initialise(
        ViT(channels=3, size=32, patch=8, width=192, heads=3, layers=2, shared=shared, over_heads=over_heads),
        torch.Generator().manual_seed(0),
    )
    linear = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    for tensor in [module.weight for module in linear] + [encoder.tokens.class_token, encoder.tokens.positions]:
        assert_normal(tensor, 0.02)
    assert all((module.bias == 0).all() for module in [*linear, *norms])
    assert all((module.weight == 1).all() for module in norms)
    assert len(list(encoder.parameters())) == 2 * (len(linear) + len(norms)) + 2


def test_the_authors_vit_has_standard_tokens_and_torchs_linear_layers() -> None:
    """What their code was measured to draw (facts on the paper): N(0, 1), and U(-1/sqrt(d), 1/sqrt(d)) with biases."""
    vit = ViT(channels=3, size=32, patch=2, width=192, heads=3, layers=2, shared=False, over_heads=False)
    encoder = initialise(vit, torch.Generator().manual_seed(0), linear="authors")
    assert_normal(encoder.tokens.positions, 1.0)
    assert encoder.tokens.class_token.std().item() == pytest.approx(1, abs=0.3)
    for layer in (module for module in encoder.modules() if isinstance(module, nn.Linear)):
        bound = layer.in_features**-0.5
        for values in (layer.weight, layer.bias):
            assert 0.95 * bound < values.abs().max().item() <= bound
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    assert all((module.weight == 1).all() and (module.bias == 0).all() for module in norms)


@pytest.mark.parametrize("norm", ["batch", "instance", "group8", "layer"])
def test_normalisations_start_at_scale_1_and_shift_0(norm: str) -> None:
    layer = NORM_LAYERS[norm](16)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
    initialise(layer, torch.Generator())
    assert (layer.weight == 1).all()
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
        torch.testing.assert_close(parameter.double(), ((1 - alpha) * t + alpha * f) / delta, rtol=1e-6, atol=1e-7)
    scale = student.get_parameter("encoder.bn1.weight")
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / delta))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0])
def test_neighbourhood_initialisation_is_its_formula_and_lets_the_variance_grow(epsilon: float) -> None:
    def draw(seed: int) -> nn.Linear:
        return initialise(nn.Linear(500, 400), torch.Generator().manual_seed(seed))

    teacher, fresh = draw(0), draw(1)
    student = neighbourhood_initialisation(teacher, draw(1), epsilon)
    torch.testing.assert_close(student.weight, teacher.weight + epsilon * fresh.weight)
    assert student.weight.std().item() == pytest.approx(0.02 * (1 + epsilon**2) ** 0.5, rel=0.01)
    assert torch.equal(student.weight, teacher.weight) == (epsilon == 0)


def test_neighbourhood_initialisation_refuses_a_negative_epsilon_and_other_shapes() -> None:
    with pytest.raises(InputError, match="at least 0"):
        neighbourhood_initialisation(nn.Linear(2, 2), nn.Linear(2, 2), -1.0)
    with pytest.raises(ValueError, match="one architecture"):
        neighbourhood_initialisation(nn.Linear(2, 2), nn.Linear(2, 3), 1.0)

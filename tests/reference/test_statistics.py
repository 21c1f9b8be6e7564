"""Statistics of embeddings and parameters against matrices whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rt_scale.probes.geometry import angle, geometry
from rt_scale.probes.statistics import agreement, feature_statistics


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_singular_values(values: list[float], samples: int, width: int) -> Tensor:
    """A centred matrix [samples, width] with these singular values and no others."""
    left = noise(samples, len(values), seed=1).double()
    left = torch.linalg.qr(left - left.mean(dim=0)).Q
    right = torch.linalg.qr(noise(width, len(values), seed=2).double()).Q
    return (left * torch.tensor(values, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize(("samples", "width"), [(50, 8), (8, 50)])
@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0], [4.0, 2.0, 1.0, 0.5]])
def test_ranks_of_matrices_whose_spectrum_is_known(
    values: list[float], samples: int, width: int, offset: float
) -> None:
    measured = feature_statistics(with_singular_values(values, samples, width) + offset)
    shares = np.array(values) / sum(values)
    assert measured["effective_rank"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    powers = np.array(values) ** 2
    assert measured["participation_ratio"] == pytest.approx(powers.sum() ** 2 / (powers**2).sum(), rel=1e-9)


def test_ranks_by_the_definition() -> None:
    x = noise(200, 12) @ noise(12, 12, seed=1) + 3
    centred = x.double() - x.double().mean(dim=0)
    shares = torch.linalg.svdvals(centred)
    shares /= shares.sum()
    covariance = centred.T @ centred / 199
    measured = feature_statistics(x)
    assert measured["effective_rank"] == pytest.approx(torch.exp(-(shares * shares.log()).sum()).item(), rel=1e-5)
    ratio = covariance.trace() ** 2 / (covariance @ covariance).trace()
    assert measured["participation_ratio"] == pytest.approx(ratio.item(), rel=1e-5)


def test_dead_units_and_spread() -> None:
    x = torch.tensor([[0.0, 1.0, 5.0, 0.0], [0.0, 3.0, 5.0, 2.0]])
    measured = feature_statistics(x)
    assert measured["dead_units"] == 0.25
    assert measured["std"] == pytest.approx((0 + 1 + 0 + 1) / 4)


def test_collapsed_and_diverged_embeddings_have_statistics_too() -> None:
    zero = feature_statistics(torch.zeros(5, 3))
    assert zero == {"effective_rank": 0.0, "participation_ratio": 0.0, "dead_units": 1.0, "std": 0.0}
    assert feature_statistics(torch.full((5, 3), 0.1))["dead_units"] == 0.0
    lost = feature_statistics(torch.tensor([[1.0, math.nan], [1.0, 2.0]]))
    assert all(math.isnan(value) for value in lost.values())
    assert agreement(torch.zeros(5, 3), noise(5, 3)) == {"cka": 0.0, "cosine": 0.0}


def by_kernels(x: Tensor, y: Tensor) -> float:
    """CKA as it is defined: HSIC of centred kernel matrices."""
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n

    def hsic(k: Tensor, m: Tensor) -> Tensor:
        return (k @ centring @ m @ centring).trace() / (n - 1) ** 2

    k, m = x.double() @ x.double().T, y.double() @ y.double().T
    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


@pytest.mark.parametrize("widths", [(6, 6), (6, 9), (40, 90)])
def test_cka_is_its_definition(widths: tuple[int, int]) -> None:
    x, y = noise(30, widths[0]) + 1, noise(30, widths[1], seed=1) - 2
    y[:, :6] += x[:, :6]
    measured = agreement(x, y)
    assert measured["cka"] == pytest.approx(by_kernels(x, y), rel=1e-6)
    assert ("cosine" in measured) is (widths[0] == widths[1])


def test_what_cka_does_not_see() -> None:
    x = noise(100, 10) @ noise(10, 10, seed=3)
    turn = torch.linalg.qr(noise(10, 10, seed=4)).Q
    for other in (x, 7 * x, -x, x @ turn, 0.01 * x @ turn + 5):
        assert agreement(x, other)["cka"] == pytest.approx(1, abs=1e-6)
    y = noise(100, 10, seed=5) + x
    assert agreement(x, y)["cka"] < 0.99
    assert agreement(x @ turn, 3 * y)["cka"] == pytest.approx(agreement(x, y)["cka"], rel=1e-5)
    assert agreement(y, x)["cka"] == pytest.approx(agreement(x, y)["cka"], rel=1e-9)


def test_unrelated_embeddings_agree_little() -> None:
    assert agreement(noise(4000, 5), noise(4000, 5, seed=1))["cka"] < 0.01


def test_cosine_is_that_of_each_image() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    y = torch.tensor([[0.0, 5.0], [1.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    assert agreement(x, y)["cosine"] == pytest.approx((0 + 1 - 1 + 0) / 4)
    z = noise(20, 5)
    assert agreement(z, 1e-20 * z)["cosine"] == pytest.approx(1)


def network(encoder: list[float], projector: list[float]) -> nn.Module:
    model = nn.Module()
    for name, values in (("encoder", encoder), ("projector", projector)):
        part = nn.Linear(len(values), 1, bias=False)
        part.weight = nn.Parameter(torch.tensor([values]))
        model.add_module(name, part)
    return model


@pytest.mark.parametrize(
    ("here", "there", "degrees"),
    [
        ([1.0, 0.0], [0.0, 3.0], 90),
        ([1.0, 0.0], [2.0, 2.0], 45),
        ([1.0, 2.0], [-2.0, -4.0], 180),
        ([1.0, 2.0], [3.0, 6.0], 0),
        ([0.0, 0.0], [3.0, 6.0], 0),
        ([1.0, 0.0], [1.0, 1e-6], math.degrees(1e-6)),
    ],
)
def test_angles_by_hand(here: list[float], there: list[float], degrees: float) -> None:
    model = network(here, [0.0])
    assert angle(model, [torch.tensor([there]), torch.zeros(1, 1)]) == pytest.approx(degrees, rel=1e-6)


def test_encoder_and_projector_apart() -> None:
    model = network([3.0, 0.0], [1.0, 1.0])
    start = [torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])]
    teacher = [torch.tensor([[0.0, 4.0]]), torch.tensor([[-1.0, -1.0]])]
    measured = geometry(model, {"from_init": start, "from_teacher": teacher})
    assert measured == pytest.approx(
        {
            "distance/encoder/from_init": 0,
            "angle/encoder/from_init": 0,
            "distance/projector/from_init": 1,
            "angle/projector/from_init": 45,
            "distance/encoder/from_teacher": 5,
            "angle/encoder/from_teacher": 90,
            "distance/projector/from_teacher": 8**0.5,
            "angle/projector/from_teacher": 180,
        }
    )


def test_a_part_without_parameters_has_no_place() -> None:
    model = network([1.0], [1.0])
    model.encoder = nn.Flatten()
    assert set(geometry(model, {"from_init": [torch.ones(1, 1)]})) == {
        "distance/projector/from_init",
        "angle/projector/from_init",
    }

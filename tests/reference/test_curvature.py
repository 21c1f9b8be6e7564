"""Eigenvalues and trace against the exact Hessian of small networks (torch.func.hessian, float64)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional

from rt_scale.models.vit import Attention
from rt_scale.probes.curvature import HessianProduct, curvature, estimated_trace, largest_eigenvalues
from rt_scale.spec.training import CurvatureSpec


class Case:
    """A network, inputs and targets, and the loss of some of them."""

    def __init__(self, network: nn.Module, x: Tensor, classes: int) -> None:
        self.network, self.x = network.double(), x.double()
        self.y = torch.arange(len(x)) % classes
        self.parameters = list(network.parameters())

    def loss(self, rows: slice = slice(None)) -> Tensor:
        """Of the rows; the sum over all slices is the mean over all rows."""
        total = functional.cross_entropy(self.network(self.x[rows]), self.y[rows], reduction="sum")
        return total / len(self.x)

    def exact(self) -> Tensor:
        """The Hessian [P, P]."""
        names = [name for name, _ in self.network.named_parameters()]
        flat = torch.cat([each.detach().flatten() for each in self.parameters])

        def loss(vector: Tensor) -> Tensor:
            parts = torch.split(vector, [each.numel() for each in self.parameters])
            given = {name: part.view_as(like) for name, part, like in zip(names, parts, self.parameters, strict=True)}
            return functional.cross_entropy(functional_call(self.network, given, (self.x,)), self.y)

        return hessian(loss)(flat)


def dense() -> Case:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return Case(network, torch.randn(12, 4), 3)


def convolutional() -> Case:
    torch.manual_seed(1)
    layers = (
        nn.Conv2d(1, 2, 3, bias=False),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    return Case(nn.Sequential(*layers).eval(), torch.randn(10, 1, 6, 6), 2)


CASES = {"dense": dense, "convolutional": convolutional}


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_products(name: str, batches: int) -> None:
    case, exact = CASES[name](), CASES[name]().exact()
    size = math.ceil(len(case.x) / batches)
    losses = [lambda rows=slice(i, i + size): case.loss(rows) for i in range(0, len(case.x), size)]
    product = HessianProduct(losses, case.parameters)
    for _ in range(2):
        vector = torch.randn(len(exact), dtype=torch.float64)
        torch.testing.assert_close(product(vector), exact @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_with_their_signs(name: str) -> None:
    case = CASES[name]()
    exact = torch.linalg.eigvalsh(case.exact())
    exact = exact[exact.abs().argsort(descending=True)]
    starts = torch.randn(4, len(exact), dtype=torch.float64)
    found = largest_eigenvalues(HessianProduct([case.loss], case.parameters), starts, 3000)
    for each, expected in zip(found, exact, strict=False):
        assert each.value == pytest.approx(float(expected), rel=1e-3)
        assert each.residual <= 1e-3


def test_negative_eigenvalues_are_found_where_they_are_largest() -> None:
    matrix = torch.diag(torch.tensor([1.0, -5.0, 3.0, 0.5, -2.0], dtype=torch.float64))
    starts = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [each.value for each in largest_eigenvalues(lambda v: matrix @ v, starts, 500)]
    assert found == pytest.approx([-5.0, 3.0, -2.0, 1.0, 0.5], rel=1e-5)
    few = largest_eigenvalues(lambda v: matrix @ v, starts[:1], 2)
    assert few[0].residual > 1e-2


def test_of_a_loss_that_is_flat_all_is_0() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    product = HessianProduct([lambda: (weight * 2).sum()], [weight])
    ones = torch.ones(1, 3, dtype=torch.float64)
    assert largest_eigenvalues(product, ones, 5)[0] == (0.0, 0.0)
    assert not product(ones[0]).any()


@pytest.mark.parametrize("name", CASES)
def test_trace_within_its_stated_error(name: str) -> None:
    """In 40 estimates of 8 vectors each the mean is right, and errors are as large as stated."""
    case = CASES[name]()
    exact = float(case.exact().trace())
    product = HessianProduct([case.loss], case.parameters)
    generator = torch.Generator().manual_seed(0)
    size = sum(each.numel() for each in case.parameters)
    signs = torch.randint(2, (40, 8, size), generator=generator).double() * 2 - 1
    found = [estimated_trace(product, each) for each in signs]
    deviations = torch.tensor([each.value - exact for each in found])
    stated = torch.tensor([each.error for each in found])
    assert abs(float(deviations.mean())) < 4 * float(deviations.std()) / math.sqrt(40)
    assert float(stated.square().mean().sqrt()) == pytest.approx(float(deviations.square().mean().sqrt()), rel=0.4)


def test_the_trace_of_a_diagonal_matrix_has_no_error() -> None:
    diagonal = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    signs = torch.tensor([[1.0, -1, 1], [1, 1, -1]], dtype=torch.float64)
    assert estimated_trace(lambda v: diagonal * v, signs) == (3.0, 0.0)


def test_attention_has_a_second_derivative() -> None:
    """By central differences of gradients; torch's fused attention has none."""
    torch.manual_seed(2)
    case = Case(
        nn.Sequential(Attention(8, 2, over_heads=False), nn.Flatten(), nn.Linear(24, 2)), torch.randn(4, 3, 8), 2
    )
    direction = torch.randn(sum(each.numel() for each in case.parameters), dtype=torch.float64)
    found = HessianProduct([case.loss], case.parameters)(direction)
    start = nn.utils.parameters_to_vector(case.parameters).detach()
    slopes = []
    for step in (1e-5, -1e-5):
        nn.utils.vector_to_parameters(start + step * direction, case.parameters)
        slopes.append(torch.cat([each.flatten() for each in torch.autograd.grad(case.loss(), case.parameters)]))
    torch.testing.assert_close(found, (slopes[0] - slopes[1]) / 2e-5, rtol=1e-5, atol=1e-6)


def test_equal_seeds_give_equal_numbers_and_every_field_counts() -> None:
    case, spec = dense(), CurvatureSpec(images=12, eigenvalues=2, iterations=10, vectors=3)
    found = curvature(spec, [case.loss], case.parameters, 7)
    assert tuple(found) == spec.metrics
    assert curvature(spec, [case.loss], case.parameters, 7) == found
    other = curvature(spec, [case.loss], case.parameters, 8)
    assert other["curvature/trace"] != found["curvature/trace"]
    for changed in ({"eigenvalues": 1}, {"iterations": 2}, {"vectors": 0}):
        assert curvature(spec.model_copy(update=changed), [case.loss], case.parameters, 7) != found

"""Curvature of a loss: the Hessian's largest eigenvalues by power iteration, its trace by Hutchinson's estimator.

Both need products of the Hessian with vectors alone, which are gradients of gradients (Pearlmutter 1994, "Fast exact
multiplication by the Hessian"). As in PyHessian (Yao et al. 2020, arXiv:1912.07145).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from rt_scale.spec.errors import RunError, first_line
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.spec.training import CurvatureSpec

Product = Callable[[Tensor], Tensor]
"""From a vector v [P] to H v [P]."""
Loss = Callable[[], Tensor]
TOLERANCE = 1e-3
"""An eigenvector is found when |H v - lambda v| is at most so much of |lambda|."""


class HessianProduct:
    """H v of the sum of ``losses`` in all of ``parameters``, as one vector [P] in their order.

    The graph of a single loss is kept from one product to the next; of several, which are batches, each is made anew,
    as all of them may not fit into memory. Attention is computed by plain products: fused kernels have no second
    derivative.
    """

    def __init__(self, losses: Sequence[Loss], parameters: Sequence[Tensor], check_stop: StopCheck = no_check) -> None:
        self.losses, self.parameters, self.check_stop = losses, parameters, check_stop
        self._kept: tuple[Tensor, ...] | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """H v, without gradient."""
        parts = torch.split(vector, [each.numel() for each in self.parameters])
        parts = tuple(part.view_as(each) for part, each in zip(parts, self.parameters, strict=True))
        total = torch.zeros_like(vector)
        for loss in self.losses:
            self.check_stop()
            with _second_derivative():
                slopes = self._kept or self._slopes(loss)
                # Those that do not depend on the parameters have no graph.
                pairs = [pair for pair in zip(slopes, parts, strict=True) if pair[0].requires_grad]
                outputs, vectors = [slope for slope, _ in pairs], [part for _, part in pairs]
                keep = len(self.losses) == 1
                self._kept = slopes if keep else None
                if pairs:
                    found = torch.autograd.grad(
                        outputs, self.parameters, vectors, retain_graph=keep, materialize_grads=True
                    )
                    total += torch.cat([each.flatten() for each in found])
        return total

    def _slopes(self, loss: Loss) -> tuple[Tensor, ...]:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            slopes = torch.autograd.grad(loss(), self.parameters, create_graph=True, materialize_grads=True)
        # torch leaves out a function that is marked once_differentiable, as if it were constant, and says nothing.
        if any(node.name().endswith("::Error") for node in _graph(slopes)):
            raise RuntimeError("a function is marked once_differentiable")
        return slopes


def _graph(tensors: Sequence[Tensor]) -> set[Node]:
    """All nodes that the tensors were computed by."""
    found: set[Node] = set()
    left = [each.grad_fn for each in tensors]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [before for before, _ in node.next_functions]
    return found


@contextmanager
def _second_derivative() -> Iterator[None]:
    """RunError in place of torch's for an operation without one."""
    try:
        yield
    except RuntimeError as error:
        if "derivative" not in str(error) and "differentiable" not in str(error):
            raise
        raise RunError(
            "The curvature of the loss cannot be computed: an operation of the network or the objective has no second "
            f"derivative ({first_line(error)}). Leave out probe.curvature, or write it with torch's own operations."
        ) from error


class Eigenvalue(NamedTuple):
    """An eigenvalue, and |H v - value v| / |value| for the vector v that was found: how far it is from converged."""

    value: float
    residual: float


def largest_eigenvalues(product: Product, starts: Iterable[Tensor], iterations: int) -> list[Eigenvalue]:
    """The eigenvalues of largest magnitude, with their signs, one a start [P], largest first.

    Power iteration of at most so many products each, in the space orthogonal to the eigenvectors found before. It is
    slow where the next magnitude is close; then the residual stays large.
    """
    vectors: list[Tensor] = []
    found = []
    for start in starts:
        vector, value, residual = _unit(_without(start, vectors)), 0.0, math.inf
        for _ in range(iterations):
            image = _without(product(vector), vectors)
            value = _dot(vector, image)
            residual = float((image - value * vector).norm()) / abs(value) if value else 0.0
            vector = _unit(image)
            if residual <= TOLERANCE:
                break
        vectors.append(vector)
        found.append(Eigenvalue(value, residual))
    return sorted(found, key=lambda each: -abs(each.value))


def _without(vector: Tensor, others: Sequence[Tensor]) -> Tensor:
    for other in others:
        vector = vector - _dot(other, vector) * other
    return vector


def _unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    return torch.where(length > 0, vector / length, vector)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.sum(a * b, dtype=torch.float64))


class Trace(NamedTuple):
    """An unbiased estimate of the trace, and its standard error."""

    value: float
    error: float


def estimated_trace(product: Product, signs: Iterable[Tensor]) -> Trace:
    """The mean of z H z over at least two vectors z [P] of independent random signs (Hutchinson 1990)."""
    values = torch.tensor([_dot(each, product(each)) for each in signs], dtype=torch.float64)
    return Trace(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def curvature(
    spec: CurvatureSpec,
    losses: Sequence[Loss],
    parameters: Sequence[Tensor],
    seed: int,
    check_stop: StopCheck = no_check,
) -> dict[str, float]:
    """Metrics ``curvature/...`` of the sum of ``losses``; equal seeds give equal starts and signs, drawn on the CPU."""
    product = HessianProduct(losses, parameters, check_stop)
    generator, size = torch.Generator().manual_seed(seed), sum(each.numel() for each in parameters)
    like = parameters[0]
    starts = (torch.randn(size, generator=generator).to(like) for _ in range(spec.eigenvalues))
    found: dict[str, float] = {}
    for number, (value, residual) in enumerate(largest_eigenvalues(product, starts, spec.iterations), 1):
        found |= {f"curvature/eigenvalue_{number}": value, f"curvature/residual_{number}": residual}
    if spec.vectors:
        signs = (torch.randint(2, (size,), generator=generator).mul_(2).sub_(1).to(like) for _ in range(spec.vectors))
        trace = estimated_trace(product, signs)
        found |= {"curvature/trace": trace.value, "curvature/trace_error": trace.error}
    return found

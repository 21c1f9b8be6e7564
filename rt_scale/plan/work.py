"""Amounts of computing, counted on tensors without memory: nothing is allocated and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Shape = tuple[int, ...]


class Operation(NamedTuple):
    """A convolution or matrix product.

    Attributes:
        flops: a multiplication and an addition are two.
        shapes: of both operands.
        options: stride and padding of a convolution, each (rows, columns).
    """

    flops: float
    shapes: tuple[Shape, ...]
    options: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Work:
    """An amount of computing; amounts are added, and multiplied by numbers.

    Attributes:
        convolution: FLOPs of convolutions (a multiplication and an addition are two).
        product: FLOPs of matrix products.
        traffic: bytes read and written by everything else.
        calls: operations issued.
        largest: ``convolution`` and ``product`` -> the one with most FLOPs.
    """

    convolution: float = 0.0
    product: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0
    largest: Mapping[str, Operation] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """FLOPs of convolutions and matrix products."""
        return self.convolution + self.product

    def __add__(self, other: Work) -> Work:
        largest = dict(self.largest)
        for kind, found in other.largest.items():
            largest[kind] = max(largest.get(kind, found), found, key=lambda each: each.flops)
        return Work(
            self.convolution + other.convolution,
            self.product + other.product,
            self.traffic + other.traffic,
            self.calls + other.calls,
            largest,
        )

    def __mul__(self, factor: float) -> Work:
        return Work(
            self.convolution * factor,
            self.product * factor,
            self.traffic * factor,
            self.calls * factor,
            self.largest,
        )

    def among(self, workers: int) -> Work:
        """What each of ``workers`` computes that share it image by image: all of them issue every operation."""
        return replace(self * (1 / workers), calls=self.calls)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what the operations inside cost, by the formulas of ``torch.utils.flop_counter``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        if func.is_view:
            return out
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            tensors = [each for each in tree_leaves((args, given, out)) if isinstance(each, Tensor)]
            self.work += Work(traffic=sum(each.numel() * each.element_size() for each in tensors), calls=1)
            return out
        flops = float(formula(*args, **given, out_val=out))
        if func.overloadpacket is torch.ops.aten.convolution:
            options = (("stride", tuple(args[3])), ("padding", tuple(args[4])))
            found = Operation(flops, _shapes(args[:2]), options)
            self.work += Work(convolution=flops, calls=1, largest={"convolution": found})
        else:
            # A bias, where there is one, comes first and is no matrix.
            found = Operation(flops, _shapes(each for each in args if isinstance(each, Tensor) and each.dim() > 1))
            self.work += Work(product=flops, calls=1, largest={"product": found})
        return out


def _shapes(tensors: Iterable[Tensor]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def count(function: Callable[[], Any]) -> Work:
    """What calling ``function`` computes; it must work on tensors of the meta device."""
    counting = _Counting()
    with torch.no_grad(), counting:
        function()
    return counting.work

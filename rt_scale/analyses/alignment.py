"""Two networks with their hidden units in one order: weight matching (Ainsworth et al. 2023, "Git Re-Basin").

Networks that differ in the order of their units alone compute one function, but lie far apart. A barrier that is gone
once the units are in one order separates labellings of the units, not basins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rt_scale.analyses.units import Group, Member
from rt_scale.models.networks import Weights

_ROUNDING = 1e-6
"""Gains below this cosine are rounding in float32."""


class Aligned(NamedTuple):
    """A network whose units were reordered.

    Attributes:
        weights: all of its parameters and buffers; their outputs are those of the network before.
        moved: share of the hidden units that have another place.
    """

    weights: Weights
    moved: float


def align(reference: Weights, other: Weights, groups: Sequence[Group], generator: torch.Generator) -> Aligned:
    """``other`` with its units in the order in which its parameters are nearest to those of ``reference``.

    Found by coordinate descent: the best order of one group given those of all others is a linear assignment; groups
    are taken in random order until none improves. It starts from the order that ``other`` has, or, where that is
    nearer, from one found layer by layer from the images on, which restores any permuted copy of ``reference``. (From
    its own order alone, as published, a permuted ResNet-18 stays at 0.4 of its inner product with itself.) So the
    result is never further from ``reference`` than ``other``; it is a local optimum, as the problem is NP-hard.

    Args:
        reference, other: weights of one architecture, on one device.
        groups: of that architecture, from ``units.hidden_units``.
        generator: on the CPU, for the order of the groups.
    """
    starts = [torch.arange(group.size) for group in groups], _layers(reference, other, groups)
    start = max(starts, key=lambda orders: _likeness(reference, reordered(other, groups, orders), groups))
    orders = _descend(reference, other, groups, start, generator)
    moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
    return Aligned(reordered(other, groups, orders), moved / max(1, sum(group.size for group in groups)))


def reordered(weights: Weights, groups: Sequence[Group], orders: Sequence[Tensor]) -> Weights:
    """``weights`` with unit ``orders[g][i]`` of group g at place i; orders are int64 [group.size]."""
    result = dict(weights)
    for group, order in zip(groups, orders, strict=True):
        _reorder(result, group, order)
    return result


def _reorder(weights: dict[str, Tensor], group: Group, order: Tensor) -> None:
    for member in group.members:
        tensor = weights[member.name]
        moved = tensor.reshape(member.shape).index_select(member.axis, order.to(tensor.device))
        weights[member.name] = moved.view(tensor.shape)


def _descend(
    reference: Weights, other: Weights, groups: Sequence[Group], orders: list[Tensor], generator: torch.Generator
) -> list[Tensor]:
    """``orders`` improved one group at a time until none can be."""
    orders, current = list(orders), dict(reordered(other, groups, orders))
    waiting = set(range(len(groups)))
    while waiting:
        for index in torch.randperm(len(groups), generator=generator).tolist():
            if index not in waiting:
                continue
            waiting.remove(index)
            group = groups[index]
            order = _best(_similarity(reference, current, group.members), group.block)
            trial = dict(current)
            _reorder(trial, group, order)
            # Not the assignment's own gain: a weight with both its dimensions in the group has another.
            gain = _likeness(reference, trial, [group]) - _likeness(reference, current, [group])
            if gain > _ROUNDING * math.sqrt(
                _likeness(reference, reference, [group]) * _likeness(other, other, [group])
            ):
                current, orders[index] = trial, orders[index][order]
                names = {member.name for member in group.members}
                neighbours = (i for i, each in enumerate(groups) if names & {member.name for member in each.members})
                waiting |= set(neighbours) - {index}
    return orders


def _layers(reference: Weights, other: Weights, groups: Sequence[Group]) -> list[Tensor]:
    """The orders found from weights whose other dimensions are in order already, from the images on."""
    orders, current = [torch.arange(group.size) for group in groups], dict(other)
    missing = dict(enumerate(groups))
    while missing:
        open_names = [member.name for group in missing.values() for member in group.members]
        ready = {
            index: [member for member in group.members if open_names.count(member.name) == 1 and member.learned]
            for index, group in missing.items()
        }
        # A matrix says more than a bias, which may be 0 everywhere.
        index = max(ready, key=lambda each: (any(len(member.shape) > 1 for member in ready[each]), -each))
        group = missing.pop(index)
        if ready[index]:
            orders[index] = _best(_similarity(reference, current, ready[index]), group.block)
            _reorder(current, group, orders[index])
    return orders


def _similarity(reference: Weights, other: Weights, members: Sequence[Member]) -> Tensor:
    """Inner products [n, n] of the weights of each unit of ``reference`` with those of each of ``other``."""
    total: Tensor | None = None
    for member in members:
        if member.learned:
            rest = [axis for axis in range(len(member.shape)) if axis != member.axis]
            ours, theirs = (weights[member.name].reshape(member.shape) for weights in (reference, other))
            found = torch.tensordot(ours, theirs, dims=(rest, rest))
            total = found if total is None else total + found
    assert total is not None
    return total


def _best(similarity: Tensor, block: int) -> Tensor:
    """The order [n] of the columns with the largest sum of ``similarity`` [n, n] at its places; blocks stay whole."""
    if block == 1:
        return torch.from_numpy(linear_sum_assignment(similarity.cpu().numpy(), maximize=True)[1])
    blocks = len(similarity) // block
    inner = similarity.cpu().reshape(blocks, block, blocks, block).transpose(1, 2).reshape(-1, block, block)
    orders = torch.stack([_best(each, 1) for each in inner])
    sums = inner.gather(2, orders[:, :, None]).sum((1, 2)).reshape(blocks, blocks)
    outer = _best(sums, 1)
    within = orders.reshape(blocks, blocks, block)[torch.arange(blocks), outer]
    return (outer[:, None] * block + within).flatten()


def _likeness(reference: Weights, other: Weights, groups: Sequence[Group]) -> float:
    """The inner product of the parameters in ``groups``: the larger, the nearer, as an order keeps the norms."""
    names = sorted({member.name for group in groups for member in group.members if member.learned})
    return math.fsum(float(torch.vdot(reference[name].flatten(), other[name].flatten())) for name in names)

"""Which dimensions of a network's weights hold the same hidden units, found by following its forward pass.

The outputs of a layer can be reordered if all that reads them is reordered with it: a network has many equal copies.
The forward pass runs once on the meta device. Each dimension of each tensor has an axis; what must be in one order is
joined: the outputs of a layer with the inputs of the next, the two sides of a shortcut. What passes through a function
that has no rule here keeps its order, which is always right. So an encoder of a user's own needs no table.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Member(NamedTuple):
    """A dimension of a weight that is in a group's order: ``weight.view(shape)`` along ``axis``."""

    name: str
    shape: tuple[int, ...]
    axis: int
    learned: bool
    """Whether it is a parameter, not a buffer."""


class Group(NamedTuple):
    """Hidden units whose order may change, in all ``members`` alike, without a change of the network's outputs."""

    size: int
    block: int
    """Units that stay together, in an order of their own: a group of group norm, a head's numbers; else 1."""
    members: tuple[Member, ...]


def hidden_units(network: nn.Module, channels: int, size: int) -> tuple[Group, ...]:
    """The groups of ``network``, in the order of its weights; images and outputs keep their order.

    Heads of attention are blocks of units.

    Args:
        network: a module of images [B, channels, size, size], on any device; it is not changed.
    """
    network = copy.deepcopy(network).to("meta", torch.float32).eval()
    weights = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if tensor.dim()}
    trace = _Trace()
    for tensor in weights.values():
        trace.begin(tensor)
    with torch.no_grad(), trace:
        output = network(torch.empty(2, channels, size, size, device="meta"))
    _fix(trace.axes(output))
    found = {name: _atoms(sum(trace.axes(weight), ())) for name, weight in weights.items() if id(weight) in trace.used}
    _join_heads(found)
    members: dict[_Axis, list[Member]] = {}
    for name, atoms in found.items():
        shape, learned = tuple(atom.size for atom in atoms), isinstance(weights[name], nn.Parameter)
        for position, atom in enumerate(atoms):
            if not atom.fixed:
                members.setdefault(atom, []).append(Member(name, shape, position, learned))
    return tuple(Group(atom.size, atom.block, tuple(its)) for atom, its in members.items())


class _Axis:
    """Positions of a dimension. Once joined it stands for another axis, or for several, the first one outermost."""

    def __init__(self, size: int, *, fixed: bool) -> None:
        self.size, self.fixed, self.block = size, fixed, 1
        self.joined: _Axes = ()
        self.within: _Axis | None = None  # heads, if these are the numbers of a head


_Axes = tuple[_Axis, ...]
"""Of one dimension, outermost first; empty for a dimension of size 1."""
_Rule = Callable[["_Trace", tuple[Any, ...], list[Tensor], Tensor], list[_Axes]]
"""From the trace, a function's positional arguments, all its tensors and its result to the result's axes."""


def _atoms(axes: _Axes) -> list[_Axis]:
    return [atom for axis in axes for atom in (_atoms(axis.joined) if axis.joined else [axis])]


def _fix(dimensions: Sequence[_Axes]) -> None:
    for axes in dimensions:
        for atom in _atoms(axes):
            atom.fixed = True


def _new(size: int, *, fixed: bool = True) -> _Axes:
    return () if size == 1 else (_Axis(size, fixed=fixed),)


def _split(axis: _Axis, outer: int) -> bool:
    """Make ``axis`` a product of ``outer`` and the rest; False if it has no such order."""
    if axis.size % outer or axis.block > 1:
        return False
    axis.joined = (_Axis(outer, fixed=axis.fixed), _Axis(axis.size // outer, fixed=axis.fixed))
    return True


def _join(first: _Axes, second: _Axes) -> None:
    """Give two dimensions of one size one order, or none if their parts do not fit."""
    left, right = list(first), list(second)
    while left and right:
        left, right = _atoms(tuple(left)), _atoms(tuple(right))
        a, b = left[0], right[0]
        if a.size == b.size:
            left, right = left[1:], right[1:]
            if a is not b:
                _merge(a, b)
        elif not _split(max(a, b, key=lambda axis: axis.size), min(a.size, b.size)):
            return _fix([first, second])


def _merge(kept: _Axis, other: _Axis) -> None:
    blocks = {kept.block, other.block} - {1}
    kept.fixed = kept.fixed or other.fixed or len(blocks) > 1
    kept.block = max(blocks, default=1)
    kept.within = kept.within or other.within
    other.joined = (kept,)


def _join_heads(found: dict[str, list[_Axis]]) -> None:
    """Let every head have an order of its numbers of its own, as groups in group norm do, where heads and numbers meet.

    Where a weight has one without the other, e.g. a scale for each number in all heads, both keep separate orders.
    """
    heads = {atom: atom.within for atoms in found.values() for atom in atoms if atom.within}
    for inner, its in heads.items():
        outer, *rest = _atoms((its,))
        pairs = sum(pair == (outer, inner) for atoms in found.values() for pair in itertools.pairwise(atoms))
        always = not rest and all(
            pairs == sum(atoms.count(each) for atoms in found.values()) for each in (outer, inner)
        )
        if always and not (outer.fixed or inner.fixed):
            both = _Axis(outer.size * inner.size, fixed=False)
            both.block = inner.size
            for atoms in found.values():
                while inner in atoms:
                    place = atoms.index(inner)
                    atoms[place - 1 : place + 1] = [both]


class _Trace(TorchFunctionMode):
    """Keeps the axes of every tensor of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, list[_Axes]]] = {}  # with the tensor, so that no other gets its id
        self.used: set[int] = set()

    def begin(self, weight: Tensor) -> None:
        self.known[id(weight)] = (weight, [_new(size, fixed=False) for size in weight.shape])

    def axes(self, tensor: Tensor) -> list[_Axes]:
        """Of ``tensor``'s dimensions; one that the forward pass makes from nothing has a fixed order."""
        return self.known.setdefault(id(tensor), (tensor, [_new(size) for size in tensor.shape]))[1]

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if made and function not in _CONSTANT:
            self.used |= {id(tensor) for tensor in given}
            rule = _RULES.get(function, _keeps_order)
            for tensor in made:
                self.known[id(tensor)] = (tensor, rule(self, args, given, tensor))
        return result


def _keeps_order(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    for tensor in given:
        _fix(trace.axes(tensor))
    return [_new(size) for size in result.shape]


def _elementwise(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    found: list[_Axes] = [()] * result.dim()
    for tensor in given:
        for position, axes in enumerate(trace.axes(tensor), result.dim() - tensor.dim()):
            _join(found[position], axes)
            found[position] = found[position] or axes
    return found


def _linear(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    inputs, (outputs, taken) = trace.axes(given[0]), trace.axes(given[1])
    _join(inputs[-1], taken)
    for bias in given[2:]:
        _join(outputs, trace.axes(bias)[0])
    return [*inputs[:-1], outputs]


def _convolution(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    if given[1].shape[1] != given[0].shape[1]:  # grouped
        return _keeps_order(trace, args, given, result)
    (batch, inputs, *positions), (outputs, taken, *kernel) = trace.axes(given[0]), trace.axes(given[1])
    _fix([*positions, *kernel])
    _join(inputs, taken)
    for bias in given[2:]:
        _join(outputs, trace.axes(bias)[0])
    return [batch, outputs, *(_new(size) for size in result.shape[2:])]


def _normalized(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    """Layer norm and division by the norm of vectors, whose value is the same in any order."""
    rule = _elementwise if len(given) > 1 or result.dim() == 2 else _keeps_order
    return rule(trace, args, given, result)


def _pool(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    batch, channels, *positions = trace.axes(given[0])
    _fix(positions)
    return [batch, channels, *(_new(size) for size in result.shape[2:])]


def _channel_norm(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    """Batch, instance and group norm: all other tensors have a number a channel."""
    axes = trace.axes(given[0])
    for tensor in given[1:]:
        _join(axes[1], trace.axes(tensor)[0])
    return axes


def _group_norm(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    axes, groups = _channel_norm(trace, args, given, result), args[1]
    block, atoms = result.shape[1] // groups, _atoms(axes[1])
    if 1 < groups < result.shape[1]:
        if len(atoms) == 1 and atoms[0].block in (1, block):
            atoms[0].block = block
        else:
            _fix([axes[1]])
    return axes


def _first(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    return trace.axes(given[0])


def _reshaped(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    """Flattened, unflattened or reshaped: the same numbers in the same order."""
    left = [atom for axes in trace.axes(given[0]) for atom in _atoms(axes)]
    found: list[_Axes] = []
    for size in result.shape:
        taken: list[_Axis] = []
        while (missing := size // math.prod(axis.size for axis in taken)) > 1:
            if missing % left[0].size and (left[0].size % missing or not _split(left[0], missing)):
                return _keeps_order(trace, args, given, result)
            left = _atoms(tuple(left))
            taken.append(left.pop(0))
        found.append(tuple(taken))
    return found


def _transposed(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    if len(args) != 3:
        return _keeps_order(trace, args, given, result)
    axes = list(trace.axes(given[0]))
    axes[args[1]], axes[args[2]] = axes[args[2]], axes[args[1]]
    return axes


def _unbound(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    if len(args) != 2:
        return _keeps_order(trace, args, given, result)
    axes = list(trace.axes(given[0]))
    _fix([axes.pop(args[1])])
    return axes


def _indexed(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    """``tensor[:, 0]``: whole dimensions, and numbers, whose dimensions go."""
    places = args[1] if isinstance(args[1], tuple) else (args[1],)
    whole = [isinstance(place, slice) and place == slice(None) for place in places]
    if not all(kept or type(place) is int for kept, place in zip(whole, places, strict=True)):
        return _keeps_order(trace, args, given, result)
    axes = trace.axes(given[0])
    _fix([each for each, kept in zip(axes, whole, strict=False) if not kept])
    return [each for position, each in enumerate(axes) if all(whole[position : position + 1])]


def _expanded(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    axes = [(), *trace.axes(given[0])][-result.dim() :]
    return [each or _new(size) for each, size in zip(axes, result.shape, strict=True)]


def _concatenated(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    found: list[_Axes] = [()] * result.dim()
    for tensor in given:
        for position, axes in enumerate(trace.axes(tensor)):
            if tensor.shape[position] != result.shape[position]:
                _fix([axes])
                found[position] = _new(result.shape[position])
            else:
                _join(found[position], axes)
                found[position] = found[position] or axes
    return found


def _attention(trace: _Trace, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> list[_Axes]:
    query, key, value = (trace.axes(tensor) for tensor in given[:3])
    _fix([query[-2], key[-2], value[-2]])
    _join(query[-1], key[-1])
    # The sum over a head's numbers, and the output that has them, are the same in any order, a head its own.
    for axes in (query, value):
        if len(heads := _atoms(axes[-3])) == len(numbers := _atoms(axes[-1])) == 1:
            numbers[0].within = heads[0]
    for others in (key, value):
        for one, other in zip(query[:-2], others[:-2], strict=True):
            _join(one, other)
    return [*query[:-1], value[-1]]


_CONSTANT = {Tensor.new_ones, Tensor.new_zeros}
"""Their result does not depend on a tensor's numbers."""
# What is not here keeps its order.
_RULES: dict[Any, _Rule] = {
    functional.linear: _linear,
    torch.conv2d: _convolution,
    **dict.fromkeys((functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d), _pool),
    **dict.fromkeys((functional.batch_norm, functional.instance_norm), _channel_norm),
    functional.group_norm: _group_norm,
    **dict.fromkeys((functional.layer_norm, functional.normalize), _normalized),
    **dict.fromkeys(
        (
            *(functional.relu, torch.relu, functional.gelu, functional.silu, functional.dropout),
            *(Tensor.add, Tensor.add_, torch.add),
        ),
        _elementwise,
    ),
    torch._weight_norm: _first,
    **dict.fromkeys((torch.flatten, Tensor.flatten, Tensor.unflatten, Tensor.reshape, Tensor.view), _reshaped),
    Tensor.transpose: _transposed,
    Tensor.unbind: _unbound,
    Tensor.__getitem__: _indexed,
    Tensor.expand: _expanded,
    torch.cat: _concatenated,
    functional.scaled_dot_product_attention: _attention,
}

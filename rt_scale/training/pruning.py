"""Pruning by magnitude: which weights are left (``Kept``), and holding the others at 0 while a network trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rt_scale.training.loop import Gradients, Measured, Step

Kept = Mapping[str, Tensor]
"""Name of a parameter -> bool tensor of its shape, on the CPU: True where its weight is left."""


def prunable(network: nn.Module, parameters: str) -> list[str]:
    """Names of the parameters that can be pruned, in the network's order.

    ``parameters``: ``all``, or ``weights``, those of convolutions and linear layers, the output layer's among them (as
    for CIFAR-10 in open_lth, github.com/facebookresearch/open_lth).
    """
    named = [name for name, _ in network.named_parameters()]
    if parameters == "all":
        return named
    layers = {f"{name}.weight" for name, each in network.named_modules() if isinstance(each, _ConvNd | nn.Linear)}
    return [name for name in named if name in layers]


def all_kept(weights: Mapping[str, Tensor], names: Iterable[str]) -> Kept:
    """A mask, bool and True, of the shape of each of the weights with these names."""
    return {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in names}


def pruned(weights: Mapping[str, Tensor], kept: Kept, fraction: float, scope: str) -> Kept:
    """What is left after one more round.

    The ceil(fraction x n) of n left weights with the least magnitudes are pruned; of equal magnitudes those first that
    come first, in the order of ``kept`` and of each tensor's elements. open_lth rounds so, too, but prunes one weight
    more, and all that equal it.

    Args:
        weights: tensors by name, those of ``kept`` at least.
        fraction: in (0, 1).
        scope: ``global``, over all tensors of ``kept`` together, or ``layer``, for each by itself.
    """
    parts = [list(kept)] if scope == "global" else [[name] for name in kept]
    left: dict[str, Tensor] = {}
    for names in parts:
        mask = torch.cat([kept[name].flatten() for name in names])
        magnitudes = torch.cat([weights[name].detach().cpu().double().abs().flatten() for name in names])
        (places,) = mask.nonzero(as_tuple=True)
        order = torch.argsort(magnitudes[places], stable=True)
        mask[places[order[: math.ceil(fraction * len(places))]]] = False
        for name, flat in zip(names, torch.split(mask, [kept[name].numel() for name in names]), strict=True):
            left[name] = flat.view(kept[name].shape)
    return left


def emptied(kept: Kept) -> list[str]:
    """The layers without which nothing passes: those whose weights, or scales of a norm, are all pruned."""
    return [layer(name) for name, mask in kept.items() if name.endswith("weight") and not mask.any()]


def shares(kept: Kept) -> dict[str, float]:
    """The share of weights that are left, by metric: ``sparsity/left`` of all, and ``sparsity/<layer>``."""
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in kept.items()}
    left, total = (sum(column) for column in zip(*counts.values(), strict=True))
    return {"sparsity/left": left / total} | {f"sparsity/{layer(name)}": n / of for name, (n, of) in counts.items()}


def layer(name: str) -> str:
    """The name of a parameter's layer: a weight has its layer's name, a bias its own."""
    return name.removesuffix(".weight")


def save_mask(path: Path, kept: Kept) -> None:
    """Write what is left to ``path``, a bit a weight (safetensors of bytes)."""
    save_file({name: np.packbits(mask.numpy()) for name, mask in kept.items()}, path)


def read_mask(path: Path, weights: Mapping[str, Tensor]) -> Kept:
    """Undo :func:`save_mask`, with the shapes of ``weights``; OSError or SafetensorError for a damaged file."""
    packed = load_file(path)
    # In the network's order, on which the choice between equal magnitudes depends.
    return {
        name: torch.from_numpy(np.unpackbits(packed[name], count=tensor.numel()).astype(bool)).view(tensor.shape)
        for name, tensor in weights.items()
        if name in packed
    }


class Mask:
    """Holds the pruned weights of ``network`` at exactly 0: at once, and after every step of ``optimizer``.

    ``kept`` says which weights are left.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        self.kept = kept
        self._named = {name: each for name, each in network.named_parameters() if name in kept}
        # In the layout, dtype and device of the parameters.
        self._masks = {name: torch.empty_like(each).copy_(kept[name]) for name, each in self._named.items()}
        self._hold()
        optimizer.register_step_post_hook(lambda *_: self._hold())

    @torch.no_grad()
    def _hold(self) -> None:
        # Weight decay keeps a 0, but momentum from before the pruning does not.
        torch._foreach_mul_([each.detach() for each in self._named.values()], list(self._masks.values()))

    def gradients(self, compute: Gradients) -> Gradients:
        """``compute``, with gradients of 0 for the pruned weights, so that neither norm nor clipping counts them."""

        def masked(step: Step) -> Measured:
            measured = compute(step)
            found = [(each.grad, self._masks[name]) for name, each in self._named.items() if each.grad is not None]
            torch._foreach_mul_([gradient for gradient, _ in found], [mask for _, mask in found])
            return measured

        return masked

"""Statistics of batch norms at points of parameter space that no training visited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt_scale.models.networks import Weights
from rt_scale.probes.features import evaluation_mode
from rt_scale.spec.errors import InputError
from rt_scale.training.precision import arithmetic


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of ``network`` that keep running statistics."""
    modules = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [module for module in modules if module.track_running_stats]


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Inside, the batch norms use the statistics of each batch, all else is in evaluation mode.

    Running statistics stay as they are, unless ``momentum`` of the yielded batch norms is set. Afterwards modes and
    momenta are restored.
    """
    norms = batch_norms(network)
    before = [norm.momentum for norm in norms]
    with evaluation_mode(network):
        for norm in norms:
            norm.train()
            norm.momentum = 0.0
        try:
            yield norms
        finally:
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor], precision: str = "float32") -> None:
    """Set the running statistics of all batch norms to means over ``batches``, weighted by their numbers of images.

    Each layer sees inputs normalised by the statistics of the batch, as in training, so that one pass sets all layers
    (reset and cumulative mean, as of ``momentum=None`` in torch, for batches of equal size). Variances are unbiased, as
    torch's are. Without batch norms nothing is computed.

    Args:
        batches: inputs [B, C, H, W], B > 1, on the network's device.
        precision: of the spec; for bf16 under autocast.
    """
    with batch_statistics(network) as norms:
        seen = 0
        for inputs in batches if norms else ():
            seen += len(inputs)
            for norm in norms:
                norm.momentum = len(inputs) / seen  # 1 for the first batch, which replaces what was there
            with arithmetic(precision, inputs.device):
                network(inputs)


def combined(networks: Sequence[Weights], shares: Sequence[float]) -> dict[str, Tensor]:
    """The sum of share x value for every parameter and buffer, in its dtype; whole numbers are the first network's.

    At a share of 1 and others of 0 the result equals that network.
    """
    first, *others = networks
    found = {}
    for name, value in first.items():
        if value.is_floating_point():
            value = value * shares[0]
            for weights, share in zip(others, shares[1:], strict=True):
                value = value.add_(weights[name], alpha=share)
        found[name] = value
    return found


def refuse_negative_variances(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError if a running variance in ``weights`` is below 0, as beyond the ends of a line it can be."""
    lowest = {name: float(value.min()) for name, value in weights.items() if name.endswith("running_var")}
    if wrong := [name for name, value in lowest.items() if value < 0]:
        raise InputError(
            f"At {where} the interpolated variance of {wrong[0]} is {lowest[wrong[0]]:.3g}, and no variance is "
            "negative: beyond networks, not between them, statistics cannot be interpolated. Choose other statistics, "
            "such as batch, or stay between the networks."
        )

"""The networks of the naive implementation, in float64: small conv nets with a projector (paper, appendix E.1).

Nothing of rt_scale is imported, and no layer of torch's: every formula is written out. Names of parameters are those
of our networks' state, so that both implementations can start from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Network:
    """A small conv net and its projector.

    Attributes:
        theta: parameters by name.
        statistics: running means and variances of batch norms by name.
        parts: of the l2-bottleneck, e.g. ``-/lb/fn/wn/l/-``.
        activation: of the projector, gelu or relu.
        training: whether batch norms take their statistics from the batch, and move the running ones.
        rate: how far those move towards a batch's.
    """

    theta: dict[str, Tensor]
    statistics: dict[str, Tensor]
    parts: str
    activation: str
    training: bool
    rate: float = 0.1


def convolution(images: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """3 x 3, padded with zeros: [N, C, H, W] to [N, K, H, W], by kernels [K, C, 3, 3] and biases [K]."""
    count, channels, height, width = images.shape
    padded = torch.zeros(count, channels, height + 2, width + 2, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = images
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    taps = torch.stack(shifted, dim=2)  # [N, C, 9, H, W]
    return torch.einsum("kct,ncthw->nkhw", kernels.flatten(2), taps) + biases[:, None, None]


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def batch_norm(network: Network, name: str, samples: Tensor) -> Tensor:
    """Batch norm of the samples [N, C, ...], where the network has one of that name.

    Ioffe & Szegedy (2015): the batch's biased variance normalises, the unbiased one moves the running variance.
    """
    if f"{name}.weight" not in network.theta:
        return samples
    statistics = network.statistics
    mean, variance = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
    if network.training:
        values = samples.transpose(0, 1).flatten(1)  # [C, all values of that channel]
        count = values.shape[1]
        mean = values.sum(1) / count
        variance = (values - mean[:, None]).square().sum(1) / count
        for which, seen in {"mean": mean, "var": variance * count / (count - 1)}.items():
            key = f"{name}.running_{which}"
            statistics[key] = (1 - network.rate) * statistics[key] + network.rate * seen.detach()
    scale, shift = network.theta[f"{name}.weight"], network.theta[f"{name}.bias"]
    slope = scale / (variance + 1e-5).sqrt()
    shape = [-1] + [1] * (samples.ndim - 2)
    return (samples - mean.reshape(shape)) * slope.reshape(shape) + shift.reshape(shape)


def embeddings(network: Network, images: Tensor) -> Tensor:
    """The encoder: two layers of convolution, batch norm and ReLU, then the means of the four quarters of a map."""
    maps = images
    for layer in (0, 3):
        kernels, biases = (network.theta[f"encoder.features.{layer}.{kind}"] for kind in ("weight", "bias"))
        maps = relu(batch_norm(network, f"encoder.features.{layer + 1}", convolution(maps, kernels, biases)))
    half = images.shape[-1] // 2
    quarters = [(slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)]
    return torch.stack([maps[:, :, y, x].mean((2, 3)) for y, x in quarters], dim=2).flatten(1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors, along the last dimension, divided by their l2 norms."""
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def bottleneck(theta: dict[str, Tensor], parts: str, x: Tensor) -> Tensor:
    """The l2-bottleneck of samples [N, d]: V^T (W^T x + b) / ||W^T x + b|| and variants (appendix E.1, figure 12)."""
    weight_norm_1, linear_1, feature_norm_1, weight_norm_2, linear_2, feature_norm_2 = (
        mark != "-" for mark in parts.split("/")
    )
    if linear_1:
        w = theta["projector.bottleneck.weight"]
        x = x @ (unit(w) if weight_norm_1 else w).T + theta["projector.bottleneck.bias"]
    if feature_norm_1:
        x = unit(x)
    if linear_2:
        v = theta["projector.last.weight"]
        x = x @ (unit(v) if weight_norm_2 else v).T
    return unit(x) if feature_norm_2 else x


def outputs(network: Network, views: Sequence[Tensor]) -> list[Tensor]:
    """Logits [B, m] of every view [B, C, S, S]: encoder, one hidden layer, l2-bottleneck.

    As in DINO's code, views of one size are one batch of the encoder, and all views one batch of the projector.
    """
    theta = network.theta
    sizes = sorted({view.shape[-1] for view in views}, reverse=True)  # the larger, global views come first
    joined = [embeddings(network, torch.cat([view for view in views if view.shape[-1] == size])) for size in sizes]
    hidden = torch.cat(joined) @ theta["projector.mlp.0.weight"].T + theta["projector.mlp.0.bias"]
    activation = {"gelu": gelu, "relu": relu}[network.activation]
    logits = bottleneck(theta, network.parts, activation(batch_norm(network, "projector.mlp.1", hidden)))
    return list(logits.split(len(views[0])))

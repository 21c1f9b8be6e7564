"""The networks of the naive implementation, in float64: small conv nets with a projector (paper, appendix E.1).

Nothing of rt_scale is imported. Images are taken one at a time, except where batch norm joins them. Names of
parameters are those of our networks' state, so that both implementations can start from the same numbers.
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


def convolution(image: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """3 x 3, padded with zeros: [C, H, W] to [K, H, W], by kernels [K, C, 3, 3] and biases [K]."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2, width + 2, dtype=torch.float64)
    padded[:, 1:-1, 1:-1] = image
    shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    taps = torch.stack(shifted, dim=1)  # [C, 9, H, W]
    return torch.einsum("kct,cthw->khw", kernels.flatten(2), taps) + biases[:, None, None]


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def batch_norm(network: Network, name: str, samples: list[Tensor]) -> list[Tensor]:
    """Batch norm of the samples [C, ...], where the network has one of that name.

    Ioffe & Szegedy (2015): the batch's biased variance normalises, the unbiased one moves the running variance.
    """
    if f"{name}.weight" not in network.theta:
        return samples
    statistics = network.statistics
    mean, variance = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
    if network.training:
        values = torch.stack(samples, dim=1).flatten(1)  # [C, all values of that channel]
        count = values.shape[1]
        mean = values.sum(1) / count
        variance = (values - mean[:, None]).square().sum(1) / count
        for which, seen in {"mean": mean, "var": variance * count / (count - 1)}.items():
            key = f"{name}.running_{which}"
            statistics[key] = (1 - network.rate) * statistics[key] + network.rate * seen.detach()
    scale, shift = network.theta[f"{name}.weight"], network.theta[f"{name}.bias"]
    slope = scale / (variance + 1e-5).sqrt()
    shape = [-1] + [1] * (samples[0].ndim - 1)
    return [(sample - mean.reshape(shape)) * slope.reshape(shape) + shift.reshape(shape) for sample in samples]


def embeddings(network: Network, images: list[Tensor]) -> list[Tensor]:
    """The encoder: two layers of convolution, batch norm and ReLU, then the means of the four quarters of a map."""
    maps = images
    for layer in (0, 3):
        kernels, biases = (network.theta[f"encoder.features.{layer}.{kind}"] for kind in ("weight", "bias"))
        maps = [convolution(image, kernels, biases) for image in maps]
        maps = batch_norm(network, f"encoder.features.{layer + 1}", maps)
        maps = [relu(image) for image in maps]
    half = images[0].shape[-1] // 2
    quarters = [(slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)]
    return [torch.stack([image[:, y, x].mean((1, 2)) for y, x in quarters], dim=1).flatten() for image in maps]


def unit(vectors: Tensor) -> Tensor:
    """Vectors, along the last dimension, divided by their l2 norms."""
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def bottleneck(theta: dict[str, Tensor], parts: str, x: Tensor) -> Tensor:
    """The l2-bottleneck of one sample: V^T (W^T x + b) / ||W^T x + b|| and its variants (appendix E.1, figure 12)."""
    weight_norm_1, linear_1, feature_norm_1, weight_norm_2, linear_2, feature_norm_2 = (
        mark != "-" for mark in parts.split("/")
    )
    if linear_1:
        w = theta["projector.bottleneck.weight"]
        x = (unit(w) if weight_norm_1 else w) @ x + theta["projector.bottleneck.bias"]
    if feature_norm_1:
        x = unit(x)
    if linear_2:
        v = theta["projector.last.weight"]
        x = (unit(v) if weight_norm_2 else v) @ x
    return unit(x) if feature_norm_2 else x


def outputs(network: Network, views: Sequence[Tensor]) -> list[list[Tensor]]:
    """Logits [m] of every image of every view [B, C, S, S]: encoder, one hidden layer, l2-bottleneck.

    As in DINO's code, views of one size are one batch of the encoder, and all views one batch of the projector.
    """
    theta = network.theta
    joined: list[Tensor] = []
    for size in sorted({view.shape[-1] for view in views}, reverse=True):  # the larger, global views come first
        joined += embeddings(network, [image for view in views if view.shape[-1] == size for image in view])
    weight, bias = theta["projector.mlp.0.weight"], theta["projector.mlp.0.bias"]
    hidden = batch_norm(network, "projector.mlp.1", [weight @ embedding + bias for embedding in joined])
    activation = {"gelu": gelu, "relu": relu}[network.activation]
    logits = [bottleneck(theta, network.parts, activation(x)) for x in hidden]
    batch = len(views[0])
    return [logits[first : first + batch] for first in range(0, len(logits), batch)]

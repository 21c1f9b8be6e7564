"""The whole method a second time, naively, in float64 (paper, appendix A: the algorithm box; appendix E).

Nothing of rt_scale is imported. Images are taken one at a time, except where batch norm joins them, every
formula is written out, and autograd of those formulas is the gradient. Names of parameters are those of our
networks' state, so that both implementations can start from the same numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    """

    theta: dict[str, Tensor]
    statistics: dict[str, Tensor]
    parts: str
    activation: str
    training: bool


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
            statistics[key] = 0.9 * statistics[key] + 0.1 * seen.detach()
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


def predictions(network: Network, images: list[Tensor]) -> list[Tensor]:
    """Softmax of the logits of every image: encoder, one hidden layer, l2-bottleneck."""
    theta = network.theta
    weight, bias = theta["projector.mlp.0.weight"], theta["projector.mlp.0.bias"]
    hidden = [weight @ embedding + bias for embedding in embeddings(network, images)]
    hidden = batch_norm(network, "projector.mlp.1", hidden)
    activation = {"gelu": gelu, "relu": relu}[network.activation]
    logits = [bottleneck(theta, network.parts, activation(x)) for x in hidden]
    return [z.exp() / z.exp().sum() for z in logits]


def objective(teacher: Network, student: Network, images: list[Tensor]) -> dict[str, Tensor]:
    """Cross entropy, summed over outputs and averaged over images, and the other metrics of an epoch, likewise."""
    sums: defaultdict[str, Any] = defaultdict(float)
    for target, prediction in zip(predictions(teacher, images), predictions(student, images), strict=True):
        sums["loss"] += -(target * prediction.log()).sum()
        sums["kl"] += (target * (target / prediction).log()).sum()
        sums["teacher_entropy"] += -(target * target.log()).sum()
        sums["student_entropy"] += -(prediction * prediction.log()).sum()
    return {name: total / len(images) for name, total in sums.items()}


@dataclass(frozen=True)
class Recipe:
    """How parameters are updated.

    Attributes:
        name: adam, adamw or sgd.
        lr: learning rate of optimiser step t, from 0.
        weight_decay: of optimiser step t.
        momentum: of sgd.
        decay_norm_and_bias: whether parameters of one dimension decay, too.
        clip: largest norm of the whole gradient.
        frozen_steps: first steps, in which the projector's last layer is left alone.
    """

    name: str
    lr: Callable[[int], float]
    weight_decay: Callable[[int], float]
    momentum: float = 0.0
    decay_norm_and_bias: bool = True
    clip: float = math.inf
    frozen_steps: int = 0


class Moments:
    """What an optimiser knows of one parameter: its updates, and the moments of its gradient."""

    updates = 0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0


def updated(recipe: Recipe, theta: Tensor, g: Tensor, past: Moments, lr: float, decay: float) -> Tensor:
    """A parameter after one step of SGD with momentum, Adam (Kingma & Ba), or AdamW (Loshchilov & Hutter)."""
    past.updates += 1
    if recipe.name == "sgd":
        past.first = recipe.momentum * past.first + (g + decay * theta)
        return theta - lr * past.first
    if recipe.name == "adam":
        g = g + decay * theta
    if recipe.name == "adamw":
        theta = theta - lr * decay * theta
    past.first = 0.9 * past.first + 0.1 * g
    past.second = 0.999 * past.second + 0.001 * g.square()
    first, second = past.first / (1 - 0.9**past.updates), past.second / (1 - 0.999**past.updates)
    return theta - lr * first / (second.sqrt() + 1e-8)


def step(student: Network, loss: Tensor, recipe: Recipe, past: dict[str, Moments], t: int) -> float:
    """Backpropagate and update only the student; the norm of its whole gradient before it is clipped."""
    gradients = torch.autograd.grad(loss, list(student.theta.values()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    shortened = min(1.0, recipe.clip / (norm + 1e-6))  # torch's guard against a division by 0
    for (name, theta), g in zip(list(student.theta.items()), gradients, strict=True):
        if name == "projector.last.weight" and t < recipe.frozen_steps:
            continue
        decay = recipe.weight_decay(t) if recipe.decay_norm_and_bias or theta.ndim > 1 else 0.0
        moved = updated(recipe, theta.detach(), shortened * g, past[name], recipe.lr(t), decay)
        student.theta[name] = moved.requires_grad_()
    return norm


def training(
    teacher: Network, student: Network, images: Tensor, epochs: Sequence[Sequence[Sequence[int]]], recipe: Recipe
) -> list[dict[str, float]]:
    """Train the student; for every epoch, the means over images of its metrics.

    Args:
        teacher: frozen, in evaluation mode.
        student: changed in place.
        images: [N, C, H, W], normalised.
        epochs: positions of the images of every batch of every epoch.
        recipe: of the updates.
    """
    past: defaultdict[str, Moments] = defaultdict(Moments)
    history, t = [], 0
    for batches in epochs:
        sums: defaultdict[str, float] = defaultdict(float)
        for batch in batches:
            metrics = objective(teacher, student, [images[position] for position in batch])
            sums["grad_norm"] += step(student, metrics["loss"], recipe, past, t) * len(batch)
            for name, value in metrics.items():
                sums[name] += value.item() * len(batch)
            t += 1
        history.append({name: total / sum(map(len, batches)) for name, total in sums.items()})
    return history

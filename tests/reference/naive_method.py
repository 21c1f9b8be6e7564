"""The whole method a second time, naively, in float64 (paper, appendix A: the algorithm box; appendix E).

Nothing of rt_scale is imported. Views are compared pair by pair, every formula is written out, and autograd of those
formulas is the gradient. The networks are those of ``naive_network``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.reference.naive_network import Network, outputs

AtStep = Callable[[int], float]
"""A number for every optimiser step t, from 0."""


class Batch(NamedTuple):
    """Views [B, C, S, S] of the same images, the teacher's (global) ones first, and the images' labels."""

    views: Sequence[Tensor]
    labels: Sequence[int]


@dataclass
class Sharpening:
    """What is done to the logits of one network (appendix E.3).

    Attributes:
        temperature: by which they are divided.
        momentum: of the centre, where there is one.
        centre: running mean of the logits.
    """

    temperature: AtStep = lambda t: 1.0
    momentum: AtStep | None = None
    centre: Tensor | float = 0.0

    def __call__(self, views: list[Tensor], t: int) -> list[Tensor]:
        """Every z becomes (z - c) / tau, with the centre c of the batches before this one."""
        before = self.centre
        if self.momentum is not None:
            mean = torch.cat(views).detach().mean(0)
            self.centre = self.momentum(t) * before + (1 - self.momentum(t)) * mean
        return [(view - before) / self.temperature(t) for view in views]


@dataclass
class Method:
    """What is minimised, and how the teacher moves.

    Attributes:
        objective: cross_entropy, kl, mse, or labels (then there is no teacher).
        pairing: which of the teacher's and the student's views are compared: same, opposite or all.
        global_views: how many of the views the teacher sees.
        update: of the teacher's parameters: none, ema, previous_epoch.
        momentum: of ema.
        evaluation: whether the teacher's batch norms normalise by running statistics.
        statistics: running ones of the teacher: initial, student, data.
        teacher: what is done to its logits.
        student: likewise.
    """

    objective: str = "cross_entropy"
    pairing: str = "same"
    global_views: int = 1
    update: str = "none"
    momentum: AtStep = lambda t: 1.0
    evaluation: bool = True
    statistics: str = "initial"
    teacher: Sharpening = field(default_factory=Sharpening)
    student: Sharpening = field(default_factory=Sharpening)


def softmax(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(-1, keepdim=True)


def compared(pairing: str, i: int, j: int) -> bool:
    """Whether the teacher's view i is a target for the student's view j."""
    return {"same": i == j, "opposite": i != j, "all": True}[pairing]


def distances(method: Method, teacher: list[Tensor], student: list[Tensor]) -> dict[str, Tensor]:
    """The loss and the other metrics of a batch, means over images and pairs of views."""
    sums: defaultdict[str, Any] = defaultdict(float)
    count = 0
    for i, taught in enumerate(teacher):
        for j, learned in enumerate(student):
            if not compared(method.pairing, i, j):
                continue
            target, prediction = softmax(taught), softmax(learned)
            terms = {"cross_entropy": -(target * prediction.log()), "mse": (taught - learned) ** 2 / taught.shape[1]}
            terms["kl"] = target * (target / prediction).log()
            sums["loss"] += terms[method.objective].sum()
            sums["kl"] += terms["kl"].sum()
            sums["teacher_entropy"] += -(target * target.log()).sum()
            sums["student_entropy"] += -(prediction * prediction.log()).sum()
            count += len(taught)
    return {name: total / count for name, total in sums.items()}


def taught_logits(method: Method, teacher: Network, views: Sequence[Tensor]) -> list[Tensor]:
    """The teacher's logits; its running statistics move where they are to follow the data."""
    rate = 0.1 if method.statistics == "data" else 0.0
    with torch.no_grad():
        if method.evaluation and method.statistics == "data":
            outputs(replace(teacher, training=True, rate=rate), views)
        return outputs(replace(teacher, training=not method.evaluation, rate=rate), views)


def measured(method: Method, teacher: Network, student: Network, batch: Batch, t: int) -> dict[str, Tensor]:
    """The loss of a batch and what is reported beside it."""
    if method.objective == "labels":
        (logits,) = outputs(student, batch.views)
        pairs = list(zip(logits, batch.labels, strict=True))
        losses = [-softmax(z)[label].log() for z, label in pairs]
        right = [float(z.tolist().index(max(z.tolist())) == label) for z, label in pairs]
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.tensor(right, dtype=torch.float64).mean()}
    taught = method.teacher(taught_logits(method, teacher, batch.views[: method.global_views]), t)
    return distances(method, taught, method.student(outputs(student, batch.views), t))


def follow(method: Method, teacher: Network, student: Network, mu: float) -> None:
    """theta_T <- mu theta_T + (1 - mu) theta_S, and likewise running statistics where they follow the student."""
    for name, value in student.theta.items():
        teacher.theta[name] = mu * teacher.theta[name].detach() + (1 - mu) * value.detach()
    if method.statistics == "student":
        for name, value in student.statistics.items():
            teacher.statistics[name] = mu * teacher.statistics[name] + (1 - mu) * value


@dataclass(frozen=True)
class Recipe:
    """How parameters are updated.

    Attributes:
        name: adam, adamw or sgd.
        lr: learning rate of optimiser step t.
        weight_decay: of optimiser step t.
        momentum: of sgd.
        decay_norm_and_bias: whether parameters of one dimension decay, too.
        clip: largest norm of the whole gradient.
        frozen_steps: first steps, in which the projector's last layer is left alone.
    """

    name: str
    lr: AtStep
    weight_decay: AtStep
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
    teacher: Network, student: Network, epochs: Sequence[Sequence[Batch]], recipe: Recipe, method: Method
) -> list[dict[str, float]]:
    """Train the student; for every epoch, the means over images of its metrics.

    Args:
        teacher: changed in place where it follows.
        student: changed in place.
        epochs: the batches of every epoch.
        recipe: of the updates.
        method: its centres move.
    """
    past: defaultdict[str, Moments] = defaultdict(Moments)
    history, t = [], 0
    for batches in epochs:
        sums: defaultdict[str, float] = defaultdict(float)
        for batch in batches:
            metrics = measured(method, teacher, student, batch, t)
            sums["grad_norm"] += step(student, metrics["loss"], recipe, past, t) * len(batch.labels)
            for name, value in metrics.items():
                sums[name] += value.item() * len(batch.labels)
            if method.update == "ema":
                follow(method, teacher, student, method.momentum(t))
            t += 1
        if method.update == "previous_epoch":
            follow(method, teacher, student, 0.0)
        history.append({name: total / sum(len(batch.labels) for batch in batches) for name, total in sums.items()})
    return history

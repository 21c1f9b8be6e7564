"""The training loop: batches to parameter updates, and the means of an epoch's metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch, Loader
from rt_scale.spec.errors import RunError
from rt_scale.spec.stopping import Stop, Stopped, never
from rt_scale.training.distributed import ALONE, Group


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch, step: completed epochs and optimiser steps.
        sums: sums of the metrics over all ranks, of a run that was stopped, or ends, within an epoch.
        weight: number of samples in ``sums``.
        evaluate_first: whether the evaluation due after ``step`` is not done yet.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    evaluate_first: bool = False


class Means:
    """Weighted means of scalar tensors over the samples of all ranks, summed on the device in float64 and read once.

    The first values added or restored fix the names; every rank adds the same names.
    """

    def __init__(self, group: Group = ALONE) -> None:
        self._group = group
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._weight = 0.0

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add scalar tensors, means over ``weight`` samples; no synchronisation. ValueError for other names."""
        names = self._names or tuple(values)
        if not names or values.keys() != set(names):
            raise ValueError(f"means of {', '.join(names) or 'nothing'} cannot take {', '.join(values) or 'nothing'}")
        # One vector: launching an operation for every metric would take a tenth of a small network's step on a GPU.
        terms = torch.stack([values[name] for name in names]).double().mul_(weight)
        self._names, self._sums = names, terms if self._sums is None else self._sums.add_(terms)
        self._weight += weight

    def read(self) -> dict[str, float]:
        """The means, in one transfer to the host; empty if nothing was added."""
        if self._sums is None:
            return {}
        total = self._total(self._sums)
        values = (total[:-1] / total[-1]).tolist()
        return dict(zip(self._names, values, strict=True))

    def _total(self, sums: Tensor) -> Tensor:
        return self._group.sum(torch.cat([sums, sums.new_tensor([self._weight])]))

    def save(self, progress: Progress) -> None:
        """Save the sums of all ranks in ``progress``; every rank calls this, after at least one :meth:`add`."""
        assert self._sums is not None
        *sums, progress.weight = self._total(self._sums).tolist()
        progress.sums = dict(zip(self._names, sums, strict=True))

    def restore(self, progress: Progress, device: torch.device) -> None:
        """Continue from what :meth:`save` saved; only rank 0 counts it."""
        counts = float(self._group.leads)
        if progress.sums:
            self._names = tuple(progress.sums)
            sums = [value * counts for value in progress.sums.values()]
            self._sums = torch.tensor(sums, dtype=torch.float64, device=device)
        self._weight = progress.weight * counts
        progress.sums, progress.weight = {}, 0.0


class Measured(NamedTuple):
    """An objective's loss of a batch, a scalar tensor with a gradient, and further scalar tensors by name."""

    loss: Tensor
    metrics: dict[str, Tensor]


Model = TypeVar("Model", bound=nn.Module)

Objective = Callable[[Model, Batch, int], Measured]
"""From model, batch and number of completed optimiser steps to loss and metrics."""


class Step(NamedTuple):
    """An optimiser step whose gradients are to be computed.

    ``number`` counts the steps before; ``weight`` is that of the loss in the mean over all ranks' images.
    """

    model: nn.Module
    objective: Objective[Any]
    batch: Batch
    number: int
    weight: float = 1.0


Gradients = Callable[[Step], Measured]
"""Writes gradients into the parameters of a step's model and returns the objective's values."""


def compute_gradients(step: Step) -> Measured:
    """The gradients of a step by the model's own forward and backward pass."""
    measured = step.objective(step.model, step.batch, step.number)
    torch.autograd.backward(measured.loss if step.weight == 1 else measured.loss * step.weight)
    return measured


class Hook(Protocol):
    """Work between steps; it never changes the model in training."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimiser step; synchronises with the device only where its own work needs it."""

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Called after every epoch, and at an end within one, with the means of its metrics."""

    def stopped(self, progress: Progress) -> None:
        """Called before training ends early, between two steps, on a stop request or a hook's Stopped."""


BeforeUpdate = Callable[[int, Tensor], None]
"""Called with the number of steps done and the gradient's norm, before each optimiser step."""


def _change_nothing(step: int, gradient_norm: Tensor) -> None:
    """No schedule, no clipping."""


class Diverged(RunError):
    """The loss is no longer a finite number."""


def train(
    model: nn.Module,
    loader: Loader,
    objective: Objective[Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    progress: Progress,
    end: int | None = None,
    before_update: BeforeUpdate = _change_nothing,
    hooks: Sequence[Hook] = (),
    group: Group = ALONE,
    stop: Stop = never,
    gradients: Gradients = compute_gradients,
) -> None:
    """Train ``model`` from ``progress``, which is updated, to ``epochs``, or to the optimiser step ``end`` before.

    Within an epoch the host never waits for the device: metrics are summed there and read at its end. They are the
    objective's, ``loss`` and ``grad_norm`` (l2 norm of the whole gradient, before clipping). Each rank of ``group``
    calls this with its shares and equal weights; gradients and metrics are those of the global batch.

    If ``end`` is within an epoch, that epoch ends there, for hooks too, with the means of what was seen; ``progress``
    keeps their sums, so that the epoch can be continued.

    Raises:
        Diverged: at the end of an epoch whose mean loss or gradient is not finite.
        Stopped: by ``stop`` or a hook, on all ranks after the same step; training can be resumed from there.
    """
    requests = _StopRequests(stop, group)
    end = epochs * loader.steps if end is None else end
    arguments = (model, loader, objective, optimizer, progress, end, before_update, hooks, group, requests, gradients)
    try:
        while progress.step < end:
            means = _epoch(*arguments)
            progress.epoch = progress.step // loader.steps
            _refuse_divergence(means, progress)
            for hook in hooks:
                hook.after_epoch(progress, means)
            if progress.step < end and requests.now():
                raise Stopped
    except Stopped:
        for hook in hooks:
            hook.stopped(progress)
        raise


STEPS_BETWEEN = 50
"""Most steps between two exchanges of stop requests by several ranks; a single rank looks after every step."""
SECONDS_BETWEEN = 1.0
"""Time between two such exchanges where steps are long."""


class _StopRequests:
    """Whether any rank is asked to stop; all ranks learn of it at the same step."""

    def __init__(self, stop: Stop, group: Group) -> None:
        self._stop, self._group = stop, group
        self._left = 1
        self._steps, self._since = 0, time.monotonic()

    def after_step(self) -> bool:
        self._steps += 1
        if self._steps < self._left and self._group.world > 1:
            return False
        return self.now()

    def now(self) -> bool:
        if self._group.world > 1:
            seconds = (time.monotonic() - self._since) / max(1, self._steps)
            steps = min(STEPS_BETWEEN, int(SECONDS_BETWEEN / seconds)) if seconds > 0 else STEPS_BETWEEN
            self._left = self._group.broadcast(max(1, steps))
            self._steps, self._since = 0, time.monotonic()
        return self._group.any(self._stop())


def _epoch(
    model: nn.Module,
    loader: Loader,
    objective: Objective[Any],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    end: int,
    before_update: BeforeUpdate,
    hooks: Sequence[Hook],
    group: Group,
    requests: _StopRequests,
    gradients: Gradients,
) -> dict[str, float]:
    """One pass over the loader, or the rest of one, to step ``end`` at most; returns the means of its metrics."""
    means = Means(group)
    means.restore(progress, next(model.parameters()).device)
    done = progress.step - progress.epoch * loader.steps
    modules = list(model.train().modules())
    for number, batch in enumerate(loader.epoch(progress.epoch, done), done):
        share, weight = group.share(batch, loader, number)
        optimizer.zero_grad(set_to_none=True)
        measured = gradients(Step(model, objective, share, progress.step, weight))
        group.sum_gradients(model.parameters())
        norm = _gradient_norm(model)
        means.add({"loss": measured.loss, "grad_norm": norm} | measured.metrics, len(batch.index))
        before_update(progress.step, norm)
        optimizer.step()
        progress.step += 1
        try:
            for hook in hooks:
                hook.after_step(progress)
            if number + 1 < loader.steps and progress.step < end and requests.after_step():
                raise Stopped
        except Stopped:
            means.save(progress)
            raise
        if progress.step == end:
            if number + 1 < loader.steps:
                means.save(progress)
            break
        # Setting the modes of a ResNet-18 takes the host as long as some 30 kernel launches: only if one differs.
        if not all(module.training for module in modules):
            model.train()
    return means.read()


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def _refuse_divergence(metrics: dict[str, float], progress: Progress) -> None:
    for name in ("loss", "grad_norm"):
        if not torch.isfinite(torch.tensor(metrics[name])):
            raise Diverged(
                f"The {name.replace('_', ' ')} is {metrics[name]} in epoch {progress.epoch} (step {progress.step}): "
                "training diverged. Lower train.optimizer.lr."
            )


@torch.no_grad()
def distance(model: nn.Module, reference: Sequence[Tensor]) -> Tensor:
    """The l2 distance of all parameters from ``reference``, one tensor a parameter (paper, figure 17)."""
    squares = [
        (parameter.detach().double() - other.double()).square().sum()
        for parameter, other in zip(model.parameters(), reference, strict=True)
    ]
    return torch.stack(squares).sum().sqrt()

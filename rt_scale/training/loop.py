"""The one training loop: batches in, parameter updates out, means of device-side metrics an epoch.

The loop asks for gradients and does the rest: it is a generator of :class:`Step`. Who serves it decides whether a
student's gradients are computed alone (:func:`serve`) or with those of others (:mod:`training.batched.batched`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch, Loader
from rt_scale.spec.errors import RunError
from rt_scale.spec.stopping import Stop as Stop
from rt_scale.spec.stopping import Stopped as Stopped
from rt_scale.spec.stopping import never as never
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.means import Means, Progress
from rt_scale.training.memory import keep_freed_memory


class Measured(NamedTuple):
    """What an objective says of a batch.

    Attributes:
        loss: scalar tensor with a gradient.
        metrics: further scalar tensors on the device, by name.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


Model = TypeVar("Model", bound=nn.Module)

Objective = Callable[[Model, Batch, int], Measured]
"""What is minimised: model, batch and number of optimiser steps done to loss and metrics."""


class Step(NamedTuple):
    """Gradients that a training loop asks for.

    Attributes:
        model: whose parameters, which have none yet, are to get them.
        objective: of what.
        batch: on which images.
        number: optimiser steps done before.
        weight: what the loss counts in the mean over all ranks' images.
    """

    model: nn.Module
    objective: Objective[Any]
    batch: Batch
    number: int
    weight: float = 1.0

    def alone(self) -> Measured:
        """Compute them by the model's own forward and backward pass."""
        measured = self.objective(self.model, self.batch, self.number)
        torch.autograd.backward(measured.loss if self.weight == 1 else measured.loss * self.weight)
        return measured


Outcome = TypeVar("Outcome")
Steps = Generator[Step, Measured, Outcome]
"""Training that asks for the gradients of each step, and is sent what was measured once they are there."""


def serve(steps: Steps[Outcome]) -> Outcome:
    """Compute every step's gradients alone; what the training returns.

    An error of a step is raised in the training, where it waits for the gradients: it is the training's own.
    """
    try:
        step = next(steps)
        while True:
            try:
                measured = step.alone()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(measured)
    except StopIteration as over:
        outcome: Outcome = over.value
        return outcome


STEPS_TOGETHER = 50
"""Several ranks ask each other at least every so many steps whether one is to stop; a single one asks itself always."""
SECONDS_TOGETHER = 1.0
"""Where steps are long they ask each other about so often."""


class Hook(Protocol):
    """Something done between steps; never changes the model that is trained."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimiser step; must not synchronise with the device unless it is due."""

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Called after every epoch with the means of its metrics."""

    def stopped(self, progress: Progress) -> None:
        """Called before training ends early, between two steps: asked to stop there, or as a hook raised Stopped."""


BeforeUpdate = Callable[[int, Tensor], None]
"""Called with the number of steps done and the gradient's norm, before each optimiser step."""


def _as_it_is(step: int, gradient_norm: Tensor) -> None:
    """No schedule, no clipping."""


class Diverged(RunError):
    """The loss is no longer a finite number."""


def training(
    model: nn.Module,
    loader: Loader,
    objective: Objective[Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    progress: Progress,
    before_update: BeforeUpdate = _as_it_is,
    hooks: Sequence[Hook] = (),
    group: Group = ALONE,
    stop: Stop = never,
) -> Steps[None]:
    """Train ``model`` from ``progress`` to ``epochs``; ``progress`` moves along.

    Within an epoch the host never waits for the device: metrics are summed there and read at its
    end. Metrics are the objective's, ``loss`` and ``grad_norm`` (l2 norm of the whole gradient as the objective
    gives it). ``before_update`` is called between the gradient and the optimiser's step.

    With several ranks in ``group`` each calls this with its own loader of its shares and a model of equal weights;
    gradients and metrics are those of the global batch.

    Asked by ``stop``, or where a hook raises Stopped, which one does on all ranks or on none, training ends between two
    steps, on all ranks at the same: from ``progress`` and equal weights it goes on as if it had not been stopped.

    Yields:
        Steps whose gradients are wanted.

    Raises:
        Diverged: at the end of an epoch whose mean loss or gradient is not finite.
        Stopped: where it was asked to stop.
    """
    asked = _Asked(stop, group)
    with keep_freed_memory():
        while progress.epoch < epochs:
            means = yield from _epoch(model, loader, objective, optimizer, progress, before_update, hooks, group, asked)
            progress.epoch += 1
            _refuse_divergence(means, progress)
            try:
                for hook in hooks:
                    hook.after_epoch(progress, means)
            except Stopped:
                _end_early(hooks, progress)
            if progress.epoch < epochs and asked.now():
                _end_early(hooks, progress)


def train(model: nn.Module, loader: Loader, objective: Objective[Any], *given: Any, **options: Any) -> None:
    """:func:`training`, of the same arguments, with every step's gradients computed alone."""
    serve(training(model, loader, objective, *given, **options))


class _Asked:
    """Whether any rank is asked to stop, which all find out at the same step."""

    def __init__(self, stop: Stop, group: Group) -> None:
        self._stop, self._group = stop, group
        self._left = 1
        self._steps, self._since = 0, time.monotonic()

    def after(self, step: int) -> bool:
        self._steps += 1
        if self._steps < self._left and self._group.world > 1:
            return False
        return self.now()

    def now(self) -> bool:
        if self._group.world > 1:
            a_step = (time.monotonic() - self._since) / max(1, self._steps)
            fits = min(STEPS_TOGETHER, int(SECONDS_TOGETHER / a_step)) if a_step > 0 else STEPS_TOGETHER
            self._left = self._group.broadcast(max(1, fits))
            self._steps, self._since = 0, time.monotonic()
        return self._group.any(self._stop())


def _end_early(hooks: Sequence[Hook], progress: Progress) -> NoReturn:
    for hook in hooks:
        hook.stopped(progress)
    raise Stopped


def _epoch(
    model: nn.Module,
    loader: Loader,
    objective: Objective[Any],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    before_update: BeforeUpdate,
    hooks: Sequence[Hook],
    group: Group,
    asked: _Asked,
) -> Steps[dict[str, float]]:
    """One pass over the loader, or the rest of one; the means of its metrics."""
    means = Means(group)
    means.restore(progress, next(model.parameters()).device)
    done = progress.step - progress.epoch * loader.steps
    modules = list(model.train().modules())
    for number, batch in enumerate(loader.epoch(progress.epoch, done), done):
        share, weight = group.share(batch, loader, number)
        optimizer.zero_grad(set_to_none=True)
        measured = yield Step(model, objective, share, progress.step, weight)
        group.sum_gradients(model.parameters())
        norm = _gradient_norm(model)
        means.add({"loss": measured.loss, "grad_norm": norm} | measured.metrics, len(batch.index))
        before_update(progress.step, norm)
        optimizer.step()
        progress.step += 1
        try:
            for hook in hooks:
                hook.after_step(progress)
        except Stopped:
            means.save(progress)
            _end_early(hooks, progress)
        if number + 1 < loader.steps and asked.after(progress.step):
            means.save(progress)
            _end_early(hooks, progress)
        # Looked at before they are set: to set the modes of a ResNet-18 takes the host as long as some 30 launches.
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
                "training diverged. Lower train.optimizer.lr, or look at the metrics up to here."
            )


@torch.no_grad()
def distance(model: nn.Module, reference: Sequence[Tensor]) -> Tensor:
    """The l2 distance of all of the model's parameters from ``reference`` (paper, figure 17), a scalar tensor.

    Args:
        model: its parameters, in their order, have the shapes of ``reference``.
        reference: one tensor a parameter, on the same device.
    """
    squares = [
        (parameter.detach().double() - other.double()).square().sum()
        for parameter, other in zip(model.parameters(), reference, strict=True)
    ]
    return torch.stack(squares).sum().sqrt()

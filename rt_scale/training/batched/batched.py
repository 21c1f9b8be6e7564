"""Several students of one architecture trained as one batched network, each with its own everything else."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.networks import FeaturesOfViews, Network
from rt_scale.models.projector import Projector
from rt_scale.training.distillation import Distillation, Supervision, arithmetic
from rt_scale.training.loop import Measured, Step, Steps, Stopped

Outcome = TypeVar("Outcome")

APART = "projector.last."
"""Parameters that stay apart: the wide output of one student at a time is all that memory has to hold."""


class Pack:
    """K networks of one architecture whose features and gradients are computed by one forward and backward pass.

    Parameters and buffers of all networks lie side by side in tensors [K, ...], and those of each network's modules
    become views of its own: its optimiser, its probes and its checkpoints find them where they always were. Under
    ``torch.vmap`` convolutions become grouped ones, linear layers batched products, and every student's batch
    norms see its own images. From the bottleneck features on, each student goes alone: its objective is any
    other run's, and only one student's logits [B, m] are in memory at a time.

    Args:
        networks: K >= 1, on one device, of equal dtypes and layouts, all in training mode when they are used.
        same_images: whether networks that are at one step see the same views, which are then made once.
    """

    def __init__(self, networks: Sequence[Network], *, same_images: bool = False) -> None:
        self.networks, self.same_images = tuple(networks), same_images
        self._parameters = _side_by_side([_without_last(network.named_parameters()) for network in networks])
        self._buffers = _side_by_side([dict(network.named_buffers()) for network in networks])
        for stack in self._parameters.values():
            stack.requires_grad_()
        self._features = FeaturesOfViews(networks[0])

    def gradients(self, steps: Sequence[Step]) -> list[Measured | Exception]:
        """Leave in every network's parameters the gradients of its own step; what each objective measured.

        Args:
            steps: one for each network, in their order. Those whose batches differ in size are computed alone.

        Returns:
            In place of what was measured the Exception of a step that failed by itself: the others have theirs. What
            all of them compute together fails for all, and is raised.
        """
        # Pixels as they are have nothing to batch: flatten, without a layer before the last one.
        if len(steps) == 1 or not self._parameters or len({step.batch.images.shape for step in steps}) > 1:
            return [_tried(step) for step in steps]
        with warnings.catch_warnings():
            # What vmap has no rule for (a mean over a map, say) it computes network by network: right, if slower.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return self._together(steps)

    def _together(self, steps: Sequence[Step]) -> list[Measured | Exception]:
        one = self.same_images and len({step.number for step in steps}) == 1
        seen = [_objective(step).views(step.batch.images, step.number) for step in (steps[:1] if one else steps)]
        inputs = seen[0] if one else tuple(torch.stack(view) for view in zip(*seen, strict=True))
        forward = torch.vmap(self._forward, in_dims=(0, 0, None if one else 0))
        with arithmetic(_objective(steps[0]).precision, steps[0].batch.images.device):
            features = forward(self._parameters, self._buffers, tuple(inputs))
        leaves = [each.requires_grad_() for each in features.detach().unbind()]
        # One by one, forward and backward: the wide tensors of a student are gone before the next one's are made.
        views = seen * len(steps) if one else seen
        measured = [_from(*each) for each in zip(steps, views, leaves, strict=True)]
        gradients = [_gradient(*each) for each in zip(leaves, measured, strict=True)]
        torch.autograd.backward(features, torch.stack(gradients))
        self._share_out()
        return measured

    def _forward(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], views: tuple[Tensor, ...]) -> Tensor:
        named = {f"network.{name}": tensor for name, tensor in (parameters | buffers).items()}
        features: Tensor = torch.func.functional_call(self._features, named, views)
        return features

    def _share_out(self) -> None:
        """Gradients of the stacks, to the parameters that are views of them."""
        owned = [dict(network.named_parameters()) for network in self.networks]
        for name, stack in self._parameters.items():
            if stack.grad is not None:
                for parameters, gradient in zip(owned, stack.grad.unbind(), strict=True):
                    parameters[name].grad = gradient
                stack.grad = None


class _Computed(Network):
    """A student whose bottleneck features [V B, k] are computed already, as an objective takes it."""

    def __init__(self, features: Tensor, projector: Projector) -> None:
        nn.Module.__init__(self)
        self.projector = projector
        self._computed = features

    def features(self, images: Tensor) -> Tensor:
        return self._computed

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        return self._computed

    def forward(self, images: Tensor) -> Tensor:
        return self.projector.logits(self._computed)

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        return self.projector.logits(self._computed)


def _tried(step: Step) -> Measured | Exception:
    """What is measured by a step alone, or what it failed with."""
    try:
        return step.alone()
    except Exception as error:
        return error


def _from(step: Step, views: Sequence[Tensor], features: Tensor) -> Measured | Exception:
    """Gradients of ``features`` and of the student's last layer."""
    objective = copy.copy(_objective(step))
    objective.views = lambda images, number: views  # they are there
    student = _Computed(features, step.model.get_submodule("projector"))  # type: ignore[arg-type]
    measured = _tried(step._replace(model=student, objective=objective))
    return measured if isinstance(measured, Exception) else Measured(measured.loss.detach(), measured.metrics)


def _gradient(leaf: Tensor, measured: Measured | Exception) -> Tensor:
    """That of a student's features; of one that failed, 0, as it ends here."""
    failed = isinstance(measured, Exception)
    return torch.zeros_like(leaf) if leaf.grad is None or failed else leaf.grad


def _objective(step: Step) -> Distillation | Supervision:
    assert isinstance(step.objective, Distillation | Supervision)
    return step.objective


def _without_last(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named if not name.startswith(APART)}


@torch.no_grad()
def _side_by_side(named: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors [K, ...] that hold those of K networks by name, in their layouts; the networks' own become views."""
    stacks: dict[str, Tensor] = {}
    for name, like in named[0].items():
        # Each part dense and in its own layout, which fused optimisers want of a parameter and its gradient.
        stack = like.new_empty_strided((len(named), *like.shape), (like.numel(), *like.stride()))
        for part, tensors in zip(stack.unbind(), named, strict=True):
            part.copy_(tensors[name])
            tensors[name].data = part
        stacks[name] = stack
    return stacks


def serve_together(runs: Sequence[Steps[Outcome]], *, same_images: bool = False) -> list[Outcome | BaseException]:
    """Compute the gradients of several trainings together, as long as they last.

    Args:
        runs: of networks that a :class:`Pack` takes. One that ends, well or not, leaves the others to go on.
        same_images: as for :class:`Pack`.

    Returns:
        What each training returned, or the Exception or Stopped that ended it.
    """
    rounds = _Rounds(runs, same_images)
    try:
        rounds.start()
        while rounds.wanted:
            rounds.go_on()
    except BaseException as error:
        rounds.end(error)
        if not isinstance(error, Exception):
            raise
    return [rounds.over[number] for number in range(len(runs))]


class _Rounds(Generic[Outcome]):
    """Trainings in step: each round serves the step that every one of them waits for.

    Attributes:
        wanted: the steps, by the number of their training.
        over: how trainings ended, by their number.
    """

    def __init__(self, runs: Sequence[Steps[Outcome]], same_images: bool) -> None:
        self.runs, self.same_images = runs, same_images
        self.wanted: dict[int, Step] = {}
        self.over: dict[int, Outcome | BaseException] = {}
        self._members: tuple[int, ...] = ()

    def start(self) -> None:
        """Bring every training to its first step."""
        for number, run in enumerate(self.runs):
            self._advance(number, functools.partial(next, run))

    def go_on(self) -> None:
        """Compute the gradients of all steps, and let every training take its own."""
        steps, self.wanted = self.wanted, {}
        if self._members != tuple(steps):
            self._members = tuple(steps)
            models = [step.model for step in steps.values()]
            self._pack = Pack(models, same_images=self.same_images)  # type: ignore[arg-type]
        for number, measured in zip(steps, self._pack.gradients([*steps.values()]), strict=True):
            run = self.runs[number]
            go_on: Callable[[Any], Step] = run.throw if isinstance(measured, Exception) else run.send
            self._advance(number, functools.partial(go_on, measured))

    def end(self, error: BaseException) -> None:
        """End every training that is not over with ``error``, which each records as its own."""
        for number in set(range(len(self.runs))) - self.over.keys():
            with contextlib.suppress(BaseException):
                self._advance(number, functools.partial(self.runs[number].throw, error))

    def _advance(self, number: int, go_on: Callable[[], Step]) -> None:
        try:
            self.wanted[number] = go_on()
        except StopIteration as end:
            self.over[number] = end.value
        except (Exception, Stopped) as error:
            self.over[number] = error

"""Several training runs in one process, whose gradients are computed by one batched network."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.networks import FeaturesOfViews, Network
from rt_scale.models.projector import Projector
from rt_scale.training.distillation import Distillation, Supervision
from rt_scale.training.loop import Gradients, Measured, Step, compute_gradients
from rt_scale.training.precision import arithmetic

T = TypeVar("T")
APART = "projector.last."
"""Parameters that are not batched, so that memory holds the wide output of only one student at a time."""


class BatchedNetwork:
    """K networks of one architecture whose features and gradients are computed by one forward and backward pass.

    Parameters and buffers of all networks are stacked in tensors [K, ...]; those of each network become views of its
    part, so that its optimiser, probes and checkpoints need no change. Under ``torch.vmap`` convolutions become grouped
    ones, linear layers batched products, and the batch norms of a student see its own images. From the bottleneck
    features on, each student is computed alone: only one student's logits [B, m] are in memory at a time.

    Args:
        networks: K >= 1, on one device, of equal dtypes and layouts, all in training mode when they are used.
        same_images: whether networks at the same step see the same views, which are then made once.
    """

    def __init__(self, networks: Sequence[Network], *, same_images: bool = False) -> None:
        self.networks, self.same_images = tuple(networks), same_images
        self._parameters = _stacked(
            [{name: each for name, each in net.named_parameters() if not name.startswith(APART)} for net in networks]
        )
        self._buffers = _stacked([dict(network.named_buffers()) for network in networks])
        for stack in self._parameters.values():
            stack.requires_grad_()
        self._features = FeaturesOfViews(networks[0])

    def gradients(self, steps: Sequence[Step]) -> list[Measured | Exception]:
        """Write the gradients of its own step into every network's parameters; returns the objectives' values.

        A step that fails by itself has its Exception in place of values. A failure of the common pass is raised. Steps
        whose batches differ in size are computed alone.
        """
        # The encoder flatten without a hidden layer has no parameters to batch.
        if len(steps) == 1 or not self._parameters or len({step.batch.images.shape for step in steps}) > 1:
            return [_tried(step) for step in steps]
        with warnings.catch_warnings():
            # Operations without a vmap rule (e.g. a mean over a map) run network by network: correct, but slower.
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
        # One student at a time, forward and backward: its wide tensors are freed before those of the next are made.
        views = seen * len(steps) if one else seen
        measured = [_from(*each) for each in zip(steps, views, leaves, strict=True)]
        gradients = [_gradient(*each) for each in zip(leaves, measured, strict=True)]
        torch.autograd.backward(features, torch.stack(gradients))
        self._distribute()
        return measured

    def _forward(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], views: tuple[Tensor, ...]) -> Tensor:
        named = {f"network.{name}": tensor for name, tensor in (parameters | buffers).items()}
        features: Tensor = torch.func.functional_call(self._features, named, views)
        return features

    def _distribute(self) -> None:
        """Give the gradients of the stacks to the parameters that are views of them."""
        owned = [dict(network.named_parameters()) for network in self.networks]
        for name, stack in self._parameters.items():
            if stack.grad is not None:
                for parameters, gradient in zip(owned, stack.grad.unbind(), strict=True):
                    parameters[name].grad = gradient
                stack.grad = None


class _Computed(Network):
    """A student for an objective, with its bottleneck features [V B, k] already computed."""

    def __init__(self, features: Tensor, projector: Projector) -> None:
        nn.Module.__init__(self)
        self.projector = projector
        self._computed = features

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        return self._computed


def _tried(step: Step) -> Measured | Exception:
    """The values of a step alone, or its error."""
    try:
        return compute_gradients(step)
    except Exception as error:
        return error


def _from(step: Step, views: Sequence[Tensor], features: Tensor) -> Measured | Exception:
    """Compute the gradients of ``features`` and of the student's last layer."""
    objective = copy.copy(_objective(step))
    objective.views = lambda images, number: views
    student = _Computed(features, step.model.get_submodule("projector"))  # type: ignore[arg-type]
    measured = _tried(step._replace(model=student, objective=objective))
    return measured if isinstance(measured, Exception) else Measured(measured.loss.detach(), measured.metrics)


def _gradient(leaf: Tensor, measured: Measured | Exception) -> Tensor:
    """The gradient of a student's features; 0 for a failed one, which ends here."""
    failed = isinstance(measured, Exception)
    return torch.zeros_like(leaf) if leaf.grad is None or failed else leaf.grad


def _objective(step: Step) -> Distillation | Supervision:
    assert isinstance(step.objective, Distillation | Supervision)
    return step.objective


@torch.no_grad()
def _stacked(named: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors [K, ...] of the tensors of K networks by name, in their layouts; the networks' own become views."""
    stacks: dict[str, Tensor] = {}
    for name, like in named[0].items():
        # Each part is dense and in its own layout: fused optimisers need that of a parameter and its gradient.
        stack = like.new_empty_strided((len(named), *like.shape), (like.numel(), *like.stride()))
        for part, tensors in zip(stack.unbind(), named, strict=True):
            part.copy_(tensors[name])
            tensors[name].data = part
        stacks[name] = stack
    return stacks


def train_together(
    runs: Sequence[Callable[[Gradients], T]],
    *,
    same_images: bool = False,
    ended: Callable[[int, T | BaseException], None] = lambda number, outcome: None,
) -> list[T | BaseException]:
    """Call every run with a function that computes all runs' gradients at once; returns their results or exceptions.

    Every run has a thread. One thread runs at a time, in the order of the runs, until its run requests gradients or
    ends: results do not depend on the scheduling of threads.

    Args:
        runs: train networks that a :class:`BatchedNetwork` takes. When one returns or raises, the others continue.
        same_images: see :class:`BatchedNetwork`.
        ended: called in the caller's thread with the position of an ended run, and what it returned or raised.
    """
    members = [_Member(run, functools.partial(ended, number)) for number, run in enumerate(runs)]
    try:
        for member in members:
            member.go_on(None)
        _rounds(members, same_images)
    except BaseException as error:
        for member in members:
            while member.started and not member.over:
                member.go_on(error)
        raise
    return [member.outcome for member in members]


def _rounds(members: Sequence[_Member[T]], same_images: bool) -> None:
    """Compute the step that every run waits for and let each continue, until all have ended."""
    waiting: list[_Member[T]] = []
    while left := [member for member in members if not member.over]:
        steps = [member.step for member in left if member.step is not None]
        answers: Sequence[Measured | Exception]
        try:
            if waiting != left:
                waiting = left
                networks: list[Network] = [step.model for step in steps]  # type: ignore[misc]
                batched = BatchedNetwork(networks, same_images=same_images)
            answers = batched.gradients(steps)
        except Exception as error:
            answers = [error] * len(steps)  # the common pass failed, for all
        for member, answer in zip(left, answers, strict=True):
            member.go_on(answer)


class _Member(Generic[T]):
    """A run in a thread, which runs only while :meth:`go_on` waits for it.

    Attributes:
        step: whose gradients it waits for; None while it runs and after its end.
        outcome: what the run returned or raised; set when it is ``over``.
    """

    outcome: T | BaseException

    def __init__(self, run: Callable[[Gradients], T], ended: Callable[[T | BaseException], None]) -> None:
        self.step: Step | None = None
        self.started = self.over = False
        self._ended = ended
        self._answers: SimpleQueue[Measured | BaseException] = SimpleQueue()
        self._requests: SimpleQueue[Step | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)

    def go_on(self, answer: Measured | BaseException | None) -> None:
        """Let it run until its next step or its end, with the values or the exception of ``step``; None to start."""
        if answer is None:
            self.started = True
            self._thread.start()
        elif self.step is not None:
            self.step = None
            self._answers.put(answer)
        # Else the caller was interrupted while the run was running: wait for the run.
        self.step = self._requests.get()
        if self.step is None:
            self._thread.join()
            self.over = True
            self._ended(self.outcome)

    def _work(self, run: Callable[[Gradients], T]) -> None:
        try:
            self.outcome = run(self._gradients)
        except BaseException as error:
            self.outcome = error
        self._requests.put(None)

    def _gradients(self, step: Step) -> Measured:
        self._requests.put(step)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

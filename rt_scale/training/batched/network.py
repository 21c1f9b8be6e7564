"""Several students of one architecture whose gradients are computed by one batched network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from rt_scale.models.networks import FeaturesOfViews, Network
from rt_scale.models.projector import Projector
from rt_scale.training.distillation import Distillation, Supervision
from rt_scale.training.loop import Measured, Step, compute_gradients
from rt_scale.training.precision import arithmetic

APART = "projector.last."
"""Parameters that stay apart: the wide output of one student at a time is all that memory has to hold."""


class BatchedNetwork:
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

        In place of that stands the Exception of a step that failed by itself: the others have theirs. What all of them
        compute together fails for all, and is raised. Steps whose batches differ in size are computed alone.
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
        return compute_gradients(step)
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

"""The objectives as the loop takes them: one batch in, loss and metrics out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.losses.chunked import tile_columns, wide_distance
from rt_scale.losses.distances import ONE_VIEW, Distance, Pair, distance
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Network
from rt_scale.training.loop import Measured
from rt_scale.training.targets import Targets
from rt_scale.training.teacher import AS_THEY_ARE, Sharpening

Views = Callable[[Tensor, int], Sequence[Tensor]]
"""uint8 images [B, H, W, C] at an optimiser step to their views, network inputs [B, C, H, W] each."""


def parameter_dtype(precision: str) -> torch.dtype:
    """The dtype of parameters and inputs: float64 for that precision, else float32."""
    return torch.float64 if precision == "float64" else torch.float32


def product_dtype(precision: str) -> torch.dtype:
    """The dtype that matrices are multiplied in."""
    return torch.bfloat16 if precision == "bf16" else parameter_dtype(precision)


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context that a network's forward pass runs in: autocast for bf16, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Distillation:
    """The distance of the student's logits from the teacher's, on the same images.

    Args:
        targets: the teacher's logits.
        views: images to network inputs.
        precision: of the spec; the objective itself is at least float32.
        name: of the distance, see ``objective.distance``.
        pairs: the (teacher, student) views that are compared; the teacher sees those that it is in.
        sharpenings: what is done to the logits of ``teacher`` and ``student``.
    """

    def __init__(
        self,
        targets: Targets,
        views: Views,
        precision: str,
        *,
        name: str = "cross_entropy",
        pairs: Sequence[Pair] = ONE_VIEW,
        sharpenings: Mapping[str, Sharpening] = AS_THEY_ARE,
    ) -> None:
        self.targets, self.views, self.precision = targets, views, precision
        self.name, self.pairs = name, pairs
        self.teacher_views = 1 + max(view for view, _ in pairs)
        self.sharpenings = sharpenings

    def __call__(self, model: Network, batch: Batch, step: int) -> Measured:
        """Loss of ``model`` at optimiser step ``step`` and, in nats, ``kl`` and both entropies.

        KL(teacher || student) = cross entropy - teacher entropy (paper, appendix D).
        """
        views = self.views(batch.images, step)
        measure = self._by_factors if self._is_wide(model, batch.index) else self._by_logits
        metrics = measure(model, views, batch.index, step)._asdict()
        return Measured(metrics.pop("loss"), metrics)

    def _is_wide(self, model: Network, index: Tensor) -> bool:
        """Whether outputs are compared by their factors: of one view, and more than a tile, which pays from there."""
        factored = self.name != "mse" and tuple(self.pairs) == ONE_VIEW and model.projector.factored
        return factored and model.projector.out_dim > tile_columns(len(index), index.device)

    def _by_factors(self, model: Network, views: Sequence[Tensor], index: Tensor, step: int) -> Distance:
        """The distance by features and weights, without logits of the whole batch."""
        with arithmetic(self.precision, index.device):
            taught = self.targets.outputs(views, index)
            learned = model.projector.outputs(model.features_of_views(views))
        student, teacher = (
            self.sharpenings[role].of_outputs(outputs, step)
            for role, outputs in (("student", learned), ("teacher", taught))
        )
        return wide_distance(self.name, student, teacher, product=product_dtype(self.precision))

    def _by_logits(self, model: Network, views: Sequence[Tensor], index: Tensor, step: int) -> Distance:
        """The distance by the logits of all views."""
        with arithmetic(self.precision, index.device):
            teacher_logits = self.targets(views[: self.teacher_views], index)
            student_logits = model.of_views(views)
        at_least = torch.promote_types(student_logits.dtype, torch.float32)
        return distance(
            self.name,
            self.sharpenings["student"](student_logits.to(at_least), step),
            self.sharpenings["teacher"](teacher_logits.to(at_least), step),
            self.pairs,
        )


class Supervision:
    """Cross entropy of the model's logits under labels (paper, section 2).

    Args:
        labels: int64 [N] on the device, by position in ``index``; with noise where that is asked for.
        views: images to network inputs, one view.
        precision: of the spec; the objective itself is at least float32.
    """

    def __init__(self, labels: Tensor, views: Views, precision: str) -> None:
        self.labels, self.views, self.precision = labels, views, precision

    def __call__(self, model: Network, batch: Batch, step: int) -> Measured:
        """Loss of ``model`` in nats, and ``accuracy`` (share) on the labels that it is trained with."""
        (inputs,) = self.views(batch.images, step)
        with arithmetic(self.precision, inputs.device):
            logits = model(inputs)
        loss, accuracy = supervised_cross_entropy(logits, self.labels[batch.index])
        return Measured(loss, {"accuracy": accuracy})

"""The objectives as the loop takes them, one batch in, loss and metrics out, and the teacher's targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.losses.chunked import tile_columns, wide_distance
from rt_scale.losses.distances import ONE_VIEW, Distance, Pair, distance
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Network
from rt_scale.models.projector import Outputs
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Measured
from rt_scale.training.precision import arithmetic, product_dtype
from rt_scale.training.teacher import AS_THEY_ARE, Sharpening


class Targets:
    """What a teacher says of a batch.

    Args:
        teacher: in the mode that it is to have.
        frozen: whether its last layer never changes: it is then normalised once.
    """

    @torch.no_grad()
    def __init__(self, teacher: Network, *, frozen: bool) -> None:
        self.projector = teacher.projector
        self.directions = teacher.projector.directions() if frozen else None

    @torch.no_grad()
    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Teacher logits [T B, m] for T views [B, C, H, W] of the images at positions ``index`` [B]."""
        return self.projector.logits(self._features(views, index), self.directions)

    @torch.no_grad()
    def outputs(self, views: Sequence[Tensor], index: Tensor) -> Outputs:
        """The same not made yet, of a projector that is ``factored``."""
        return self.projector.outputs(self._features(views, index), self.directions)

    def _features(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Bottleneck features [T B, k]."""
        raise NotImplementedError


class ComputedTargets(Targets):
    """The teacher runs at every step; arguments as of :class:`Targets`, and

    Args:
        learn_statistics: whether running statistics of batch norms in evaluation mode are moved by the batch
            before they are used, by a pass of their own.
    """

    def __init__(self, teacher: Network, *, frozen: bool = True, learn_statistics: bool = False) -> None:
        super().__init__(teacher, frozen=frozen)
        self.teacher = teacher
        self.learn_statistics = learn_statistics and not teacher.training

    def _features(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        if self.learn_statistics:
            self.teacher.train()
            self.teacher.features_of_views(views)
            self.teacher.eval()
        return self.teacher.features_of_views(views)


class CachedTargets(Targets):
    """The teacher's bottleneck features, computed once and kept on the device.

    Exact to rounding for a frozen teacher in evaluation mode on images that are not augmented:
    every image then has one feature vector for ever. Logits are recomputed from it, since
    k features a sample are small where m logits are not (paper, appendix A: k = 256, m = 65,536).

    Args:
        teacher: the frozen network.
        batches: every training image once over all ranks, with its position in ``index``.
        samples: number of training images N; the cache is [N, k] in the teacher's dtype.
        to_inputs: uint8 images to network inputs.
        group: the ranks; each holds the features of all images afterwards.
        check_stop: called before every batch, on every rank.
    """

    @torch.no_grad()
    def __init__(
        self,
        teacher: Network,
        batches: Iterable[Batch],
        samples: int,
        to_inputs: Callable[[Tensor], Tensor],
        group: Group = ALONE,
        check_stop: StopCheck = no_check,
    ) -> None:
        super().__init__(teacher, frozen=True)
        self.features = next(teacher.parameters()).new_zeros(samples, self.projector.feature_width)
        for batch in batches:
            check_stop()
            if len(batch.index):
                self.features[batch.index] = teacher.features(to_inputs(batch.images)).to(self.features)
        # Each row is one rank's, and 0 on the others: their sum is exact.
        group.sum(self.features)

    def _features(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        return self.features[index]


Views = Callable[[Tensor, int], Sequence[Tensor]]
"""uint8 images [B, H, W, C] at an optimiser step to their views, network inputs [B, C, H, W] each."""


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

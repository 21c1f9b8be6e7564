"""Objectives of the training loop (a batch to loss and metrics), and the teacher's targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.losses.chunked import tile_columns, wide_distance
from rt_scale.losses.distances import ONE_VIEW, Distance, Pair, distance
from rt_scale.losses.kl import mean_softmax
from rt_scale.losses.own import OwnObjective, own_distance
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Network
from rt_scale.models.projector import Outputs
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Measured
from rt_scale.training.precision import arithmetic, product_dtype
from rt_scale.training.teacher import AS_THEY_ARE, Sharpening


class Targets:
    """The teacher's logits for a batch; those of a ``frozen`` last layer use weights that are normalised once."""

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
        """Features [T B, k] and last weights [m, k], whose product are the same logits; if ``factored``."""
        return self.projector.outputs(self._features(views, index), self.directions)

    def _features(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Bottleneck features [T B, k]."""
        raise NotImplementedError


class ComputedTargets(Targets):
    """Targets of a teacher that runs at every step.

    With ``learn_statistics`` an extra pass updates the running statistics of batch norms in evaluation mode before they
    are used.
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

    Exact to rounding for a frozen teacher in evaluation mode on images without augmentation. Logits are recomputed,
    since k features a sample are small and m logits are not (paper, appendix A: k = 256, m = 65,536).

    Args:
        batches: every training image once over all ranks, with its position in ``index``.
        samples: number of training images N; the cache, on every rank, is [N, k] in the teacher's dtype.
        to_inputs: uint8 images to network inputs.
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
        # One rank computes each row, the others hold 0: the sum is exact.
        group.sum(self.features)

    def _features(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        return self.features[index]


Views = Callable[[Tensor, int], Sequence[Tensor]]
"""uint8 images [B, H, W, C] at an optimiser step to their views, network inputs [B, C, H, W] each."""


class Distillation:
    """The distance of the student's logits from the teacher's, on the same images.

    Of several teachers the target is the mean of their probabilities, each after its sharpening.

    Args:
        precision: of the networks; the objective itself is at least float32.
        name: of the distance, see ``losses.distances.distance``.
        pairs: (teacher, student) views to compare; the teacher sees only the views that it is compared on.
        sharpenings: of the logits, by ``teacher`` and ``student``.
        own: a user's objective, in place of the distance of that name.
        others: targets of further teachers; with some the distance must be one of softmaxes.
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
        own: OwnObjective | None = None,
        others: Sequence[Targets] = (),
    ) -> None:
        self.others = others
        self.targets, self.views, self.precision = targets, views, precision
        self.name, self.pairs, self.own = name, pairs, own
        self.teacher_views = 1 + max(view for view, _ in pairs)
        self.sharpenings = sharpenings

    def __call__(self, model: Network, batch: Batch, step: int) -> Measured:
        """Loss of ``model`` at optimiser step ``step`` and, in nats, ``kl`` and both entropies.

        KL(teacher || student) = cross entropy - teacher entropy (paper, appendix D), computed as in ``losses.kl``.
        """
        views = self.views(batch.images, step)
        measure = self._by_factors if self._is_wide(model, batch.index) else self._by_logits
        metrics = measure(model, views, batch.index, step)._asdict()
        return Measured(metrics.pop("loss"), metrics)

    def _is_wide(self, model: Network, index: Tensor) -> bool:
        """Whether outputs are compared by their factors: faster for one view and outputs wider than a tile."""
        by_softmax = self.own is None and self.name != "mse"
        one = not self.others and tuple(self.pairs) == ONE_VIEW
        factored = by_softmax and one and model.projector.factored
        return factored and model.projector.out_dim > tile_columns(len(index), index.device)

    def _by_factors(self, model: Network, views: Sequence[Tensor], index: Tensor, step: int) -> Distance:
        """The distance from features and weights; logits of the whole batch are never in memory."""
        with arithmetic(self.precision, index.device):
            teacher_outputs = self.targets.outputs(views, index)
            student_outputs = model.projector.outputs(model.features_of_views(views))
        student, teacher = (
            self.sharpenings[role].of_outputs(outputs, step)
            for role, outputs in (("student", student_outputs), ("teacher", teacher_outputs))
        )
        return wide_distance(self.name, student, teacher, product=product_dtype(self.precision))

    def _by_logits(self, model: Network, views: Sequence[Tensor], index: Tensor, step: int) -> Distance:
        """The distance from the logits of all views."""
        with arithmetic(self.precision, index.device):
            teacher_logits = mean_softmax(self._taught(views[: self.teacher_views], index, step))
            student_logits = model.of_views(views)
        at_least = torch.promote_types(student_logits.dtype, torch.float32)
        return (partial(distance, self.name) if self.own is None else partial(own_distance, self.own))(
            self.sharpenings["student"](student_logits.to(at_least), step),
            teacher_logits,
            self.pairs,
        )

    def _taught(self, views: Sequence[Tensor], index: Tensor, step: int) -> Iterator[Tensor]:
        """The logits of each teacher, at least float32, after sharpening."""
        for targets in (self.targets, *self.others):
            logits = targets(views, index)
            yield self.sharpenings["teacher"](logits.to(torch.promote_types(logits.dtype, torch.float32)), step)


class Supervision:
    """Cross entropy, at least float32, of the logits of one view under labels (paper, section 2).

    Labels are int64 [N] on the device, by position in ``index``, label noise included.
    """

    def __init__(self, labels: Tensor, views: Views, precision: str) -> None:
        self.labels, self.views, self.precision = labels, views, precision

    def __call__(self, model: Network, batch: Batch, step: int) -> Measured:
        """Loss of ``model`` in nats, and ``accuracy`` (share) on the training labels."""
        (inputs,) = self.views(batch.images, step)
        with arithmetic(self.precision, inputs.device):
            logits = model(inputs)
        loss, accuracy = supervised_cross_entropy(logits, self.labels[batch.index])
        return Measured(loss, {"accuracy": accuracy})

"""Teacher targets: computed at every step, or looked up where the teacher is constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.models.networks import Network
from rt_scale.models.projector import Outputs
from rt_scale.spec.stopping import Heed, go_on
from rt_scale.training.distributed import ALONE, Group


class Targets(Protocol):
    """What the teacher says of a batch."""

    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Teacher logits [T B, m] for T views [B, C, H, W] of the images at positions ``index`` [B]."""
        ...

    def outputs(self, views: Sequence[Tensor], index: Tensor) -> Outputs:
        """The same not made yet, of a projector that is ``factored``."""
        ...


class ComputedTargets:
    """The teacher runs at every step.

    Args:
        teacher: in the mode that it is to have.
        frozen: whether its parameters never change: its last layer is then normalised once.
        learn_statistics: whether running statistics of batch norms in evaluation mode are moved by the batch
            before they are used, by a pass of their own.
    """

    @torch.no_grad()
    def __init__(self, teacher: Network, *, frozen: bool = True, learn_statistics: bool = False) -> None:
        self.teacher = teacher
        self.directions = teacher.projector.directions() if frozen else None
        self.learn_statistics = learn_statistics and not teacher.training

    @torch.no_grad()
    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Teacher logits [T B, m]; ``index`` is not needed."""
        return self.teacher.projector.logits(self._features(views), self.directions)

    @torch.no_grad()
    def outputs(self, views: Sequence[Tensor], index: Tensor) -> Outputs:
        """The same not made yet."""
        return self.teacher.projector.outputs(self._features(views), self.directions)

    def _features(self, views: Sequence[Tensor]) -> Tensor:
        if self.learn_statistics:
            self.teacher.train()
            self.teacher.features_of_views(views)
            self.teacher.eval()
        return self.teacher.features_of_views(views)


class CachedTargets:
    """The teacher's bottleneck features, computed once and kept on the device.

    Exact to rounding for a frozen teacher in evaluation mode on images that are not augmented:
    every image then has one feature vector for ever. Logits are recomputed from it, since
    k features a sample are small where m logits are not (paper, appendix A: k = 256, m = 65,536).

    Args:
        teacher: the frozen network.
        batches: every training image once over all ranks, with its position in ``index``.
        samples: number of training images N; the cache is [N, k] in the teacher's dtype.
        to_inputs: uint8 images to network inputs.
        advance: called with the number of images done, after every batch.
        group: the ranks; each holds the features of all images afterwards.
        heed: called before every batch, on every rank.
    """

    @torch.no_grad()
    def __init__(
        self,
        teacher: Network,
        batches: Iterable[Batch],
        samples: int,
        to_inputs: Callable[[Tensor], Tensor],
        advance: Callable[[int], None] = lambda images: None,
        group: Group = ALONE,
        heed: Heed = go_on,
    ) -> None:
        self.projector = teacher.projector
        self.directions = teacher.projector.directions()
        weight = next(teacher.parameters())
        self.features = weight.new_zeros(samples, self.projector.feature_width)
        for batch in batches:
            heed()
            if not len(batch.index):
                continue
            self.features[batch.index] = teacher.features(to_inputs(batch.images)).to(self.features)
            advance(len(batch.index))
        # Each row is one rank's, and 0 on the others: their sum is exact.
        group.sum(self.features)

    @torch.no_grad()
    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Teacher logits [B, m] from the cache; ``views`` are not needed."""
        return self.projector.logits(self.features[index], self.directions)

    def outputs(self, views: Sequence[Tensor], index: Tensor) -> Outputs:
        """The same not made yet."""
        return self.projector.outputs(self.features[index], self.directions)

"""A student whose whole batches go a faster way than module by module; everything else is its own as ever."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rt_scale.models.networks import Network


class WholeBatches(Network):
    """A network that shares another's encoder and projector, and whose features of whole batches are computed faster.

    The wide output stays as it is: matrix products, which neither a compiler nor a graph makes faster. So does the
    last, smaller batch of an epoch, as preparing for it would cost as much again, and what enters by the encoder or by
    ``features``, as probes and caches do, or in evaluation mode.

    Args:
        network: whose parameters are trained; both have the same modules.
        batch_size: images of a whole batch.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        super().__init__(network.encoder, network.projector)
        self.batch_size = batch_size

    def whole_batch(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S] of a whole batch."""
        raise NotImplementedError

    def module_by_module(self, views: Sequence[Tensor]) -> Tensor:
        """The same of any batch, by the network's own forward pass."""
        return super().features_of_views(views)

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S], all images of the first view first."""
        whole = self.training and len(views[0]) == self.batch_size
        return self.whole_batch(views) if whole else self.module_by_module(views)

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], all images of the first view first."""
        logits: Tensor = self.projector.logits(self.features_of_views(views))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        return self.of_views((images,))

"""Loss and accuracy of classifiers on whole splits, with a stated choice of batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rt_scale.analyses.statistics import batch_norms, batch_statistics, estimate_statistics
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Weights
from rt_scale.probes.features import Split, ToInputs, evaluation_mode
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.loop import Means
from rt_scale.training.precision import arithmetic

Choice = Literal["estimated", "batch", "kept"]
"""Statistics of batch norms: estimated anew, those of each measured batch, or those in the weights."""
Measured = dict[str, dict[str, float]]
"""Split -> ``loss`` (cross entropy in nats) and ``accuracy`` (share), means over its images."""


@dataclass(frozen=True)
class Classifiers:
    """Classifiers of one architecture on the same images.

    Attributes:
        network: takes the weights of each classifier in turn; maps inputs [B, C, H, W] to logits [B, classes].
        splits: the images that classifiers are measured on, by name.
        to_inputs: from stored images to inputs.
        estimation: the images that statistics are estimated from; None if they never are.
        precision: of the spec.
        check_stop: called before every batch.
    """

    network: nn.Module
    splits: Mapping[str, Split]
    to_inputs: ToInputs
    estimation: Split | None = None
    precision: str = "float32"
    check_stop: StopCheck = no_check

    @torch.no_grad()
    def measure(self, weights: Weights, statistics: Choice) -> Measured:
        """Loss and accuracy of the classifier with these weights, on every split."""
        self.network.load_state_dict(weights)
        if statistics == "estimated" and batch_norms(self.network):
            assert self.estimation is not None, "statistics are estimated from images"
            estimate_statistics(self.network, self._inputs(self.estimation), self.precision)
        mode = batch_statistics if statistics == "batch" else evaluation_mode
        with mode(self.network):
            return {name: self._on(split) for name, split in self.splits.items()}

    def _on(self, split: Split) -> dict[str, float]:
        means = Means()
        for batch in split.sequential():
            self.check_stop()
            inputs = self.to_inputs(batch.images)
            with arithmetic(self.precision, inputs.device):
                logits = self.network(inputs)
            loss, accuracy = supervised_cross_entropy(logits, batch.labels)
            means.add({"loss": loss, "accuracy": accuracy}, len(batch.labels))
        found = means.read()
        # The shares of batches are rounded to float32; whole numbers of images make equal errors equal.
        return found | {"accuracy": round(found["accuracy"] * split.samples) / split.samples}

    def _inputs(self, split: Split) -> Iterator[Tensor]:
        for batch in split.sequential():
            self.check_stop()
            yield self.to_inputs(batch.images)

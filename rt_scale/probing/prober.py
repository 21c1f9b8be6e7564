"""All probes that a spec asks for, of a network or of the input pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rt_scale.probing.features import Features, Split, ToInputs, embed, pixels, standardise
from rt_scale.probing.knn import check_neighbours, knn_accuracy
from rt_scale.probing.linear import linear_probe
from rt_scale.probing.logistic import logistic_probe
from rt_scale.probing.ridge import ridge_probe
from rt_scale.spec.run import ProbeSpec
from rt_scale.training.dist import ALONE, Group


class Prober:
    """Probes embeddings of clean training images on the test split (paper, section 3 'Probing').

    Every method returns ``{name: accuracy in [0, 1]}`` with the names ``linear``, ``knn``, ``logistic``
    and ``ridge``, as the spec asks for them, and the same with ``_standardized`` for embeddings that are
    standardised per dimension by training statistics. Nothing is logged.

    Args:
        spec: which probes, and the linear classifier's recipe.
        train: images to fit on, in index order, without augmentation.
        test: images to measure on.
        to_inputs: from uint8 images to a network's inputs.
        classes: number of classes.
        group: the ranks that share the embedding of images. The classifiers are rank 0's alone, the others, which wait
            for it at their next reduction, measure nothing: an equal result k times would help nobody.

    Raises:
        InputError: more neighbours than training images.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        train: Split,
        test: Split,
        to_inputs: ToInputs,
        *,
        classes: int,
        group: Group = ALONE,
    ) -> None:
        if spec.knn:
            check_neighbours(spec.knn, train.samples)
        self.spec = spec
        self.train = train
        self.test = test
        self.to_inputs = to_inputs
        self.classes = classes
        self.group = group

    def probe_network(
        self, encoder: nn.Module, seed: int, watch: Callable[[Tensor], None] | None = None
    ) -> dict[str, float]:
        """Probe the embeddings of ``encoder``, which is left in the mode that it was in.

        Args:
            encoder: on the device of the inputs.
            seed: of the linear classifiers, e.g. ``stream("probe.student", spec.seeds.probe, epoch)``.
            watch: given the test images' embeddings, float32 [N, D], to measure something else on them.
        """
        train = embed(encoder, self.train, self.to_inputs, self.group)
        test = embed(encoder, self.test, self.to_inputs, self.group)
        if watch is not None:
            watch(test.x)
        return self.probe_features(train, test, seed)

    def probe_input(self, seed: int) -> dict[str, float]:
        """Probe the flattened normalised pixels; ``seed`` as in ``probe_network``."""
        train = pixels(self.train, self.to_inputs, self.group)
        test = pixels(self.test, self.to_inputs, self.group)
        return self.probe_features(train, test, seed)

    def probe_features(self, train: Features, test: Features, seed: int) -> dict[str, float]:
        """Probe embeddings that were computed before.

        The classifiers on raw and on standardised embeddings start from the same draw and see the
        same order, so that their difference is the standardisation's.

        Args:
            train: of the training images.
            test: of the test images, on the same device.
            seed: as in ``probe_network``.
        """
        if not self.group.leads:
            return {}
        values = self._measure(train, test, seed)
        if self.spec.standardized:
            train_x, test_x = standardise(train.x, test.x)
            standardised = self._measure(Features(train_x, train.y), Features(test_x, test.y), seed)
            values |= {f"{name}_standardized": value for name, value in standardised.items()}
        return values

    def _measure(self, train: Features, test: Features, seed: int) -> dict[str, float]:
        values: dict[str, float] = {}
        if self.spec.linear:
            values["linear"] = linear_probe(
                *train,
                *test,
                classes=self.classes,
                generator=torch.Generator("cpu").manual_seed(seed),
                epochs=self.spec.epochs,
                batch_size=self.spec.batch_size,
                lr=self.spec.lr,
            )
        if self.spec.knn:
            values["knn"] = knn_accuracy(*train, *test, k=self.spec.knn, classes=self.classes)
        if self.spec.logistic:
            values["logistic"] = logistic_probe(*train, *test, classes=self.classes, l2=self.spec.l2)
        if self.spec.ridge:
            values["ridge"] = ridge_probe(*train, *test, classes=self.classes, l2=self.spec.l2)
        return values

"""What is measured of a network at a point of parameter space: distances from a reference network, and probes."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rt_scale.analyses.statistics import batch_statistics
from rt_scale.losses.kl import compared_rows, from_excess, softmax_rows
from rt_scale.models.networks import Network, Weights
from rt_scale.models.projector import Projector
from rt_scale.probes.convex import fit_ridge
from rt_scale.probes.evaluator import screen
from rt_scale.probes.features import Features, evaluation_mode, standardise
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.linear import Classifier, LinearProbes, Problem
from rt_scale.spec.errors import unknown_name
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.precision import arithmetic

SPLITS = ("train", "test")
LOSSES = ("kl", "cross_entropy", "entropy", "kl_embedding")
"""On each split, in nats: of softmaxes of outputs, and the last one of softmaxes of embeddings."""
PROBES = ("linear", "linear_standardized", "ridge", "knn", "knn_standardized")
"""Test accuracies, in [0, 1], of classifiers of training embeddings."""
NAMES = (*(f"{loss}_{split}" for loss in LOSSES for split in SPLITS), *PROBES)
"""Every measure."""
STATISTICS = ("given", "batch")
KEPT_BYTES = 1 << 30
"""Most bytes of the reference's logits and softmax of a split; if they take more, each point computes them again."""


class Images(NamedTuple):
    """Network inputs x float [N, C, H, W], of which the first so many are used, and classes y int64 [N]."""

    x: Tensor
    y: Tensor


class ProbeRecipe(NamedTuple):
    """How probes are fitted at a point.

    Attributes:
        images: of each split, the first so many; None: all.
        steps: of the linear classifier. Not epochs: 10 epochs of 1,000 images are 40 steps, which train no classifier.
        batch_size, lr: of the linear classifier.
        neighbours: k of the kNN classifier.
        l2: of the ridge classifier, as in ``ProbeSpec``.
        seed: of the linear classifier's start and orders, equal at all points.
    """

    images: int | None = None
    steps: int = 1960
    batch_size: int = 256
    lr: float = 1e-3
    neighbours: int = 20
    l2: float = 1e-3
    seed: int = 0


PAPER = ProbeRecipe()
"""10 epochs of the paper's 50,000 images, at rt-scale's batch size (appendix C.1)."""


class PointMeasures:
    """The measures ``names`` of networks of one architecture, that of ``network``.

    The reference is the network as it was: in evaluation mode, with its own statistics of norms. Its outputs and
    embeddings are computed once. Linear classifiers of all points of a call are trained as one batch.

    Args:
        network: on the images' device; its weights stand for those that a point does not have, e.g. the projector's.
        reference: the network that others are compared with, e.g. a teacher.
        train, test: the images of both splits.
        names: some of ``NAMES``.
        classes: number of classes.
        losses: images of each split, the first so many, for the measures in ``LOSSES``; None: all.
        probe: of the measures in ``PROBES``.
        batch_size: images a pass.
        statistics: of batch norms, ``given`` by the point, or of each ``batch``.
        precision: of the networks, as in a spec.

    Raises:
        InputError: another name of a measure or of statistics.
    """

    def __init__(
        self,
        network: Network,
        reference: Weights,
        train: Images,
        test: Images,
        names: Sequence[str],
        *,
        classes: int,
        losses: int | None = None,
        probe: ProbeRecipe = PAPER,
        batch_size: int = 256,
        statistics: str = "given",
        precision: str = "float32",
    ) -> None:
        for name in names:
            if name not in NAMES:
                raise unknown_name("measure of a point", name, NAMES)
        if statistics not in STATISTICS:
            raise unknown_name("statistics of batch norms", statistics, STATISTICS)
        self.names, self.classes, self.recipe, self.precision = tuple(names), classes, probe, precision
        self._holder, self._statistics = _Holder(network), statistics
        self._buffers = {name for name, _ in network.named_buffers()}
        probed = not set(names).isdisjoint(PROBES)
        self._labels = [each.y[: probe.images] for each in (train, test)] if probed else []
        self._standardized = any(name.endswith("_standardized") for name in names)
        self._linear = LinearProbes(
            classes,
            standardized=self._standardized,
            steps=probe.steps,
            batch_size=probe.batch_size,
            lr=probe.lr,
        )
        self._splits = [
            _SplitLosses(split, [name for name in LOSSES if f"{name}_{split}" in names], precision) for split in SPLITS
        ]
        parts = zip(self._splits, (train, test), strict=True)
        self._batches = [self._batched(split, images.x, reference, losses, batch_size) for split, images in parts]

    def _batched(
        self, split: _SplitLosses, images: Tensor, reference: Weights, losses: int | None, batch_size: int
    ) -> tuple[Tensor, ...]:
        """The batches of a split that is measured; keeps what the reference gives of those that are compared."""
        # Those for probes alone are in batches of their own: then no statistics of a batch, so no measure, depends on
        # what else is measured.
        first = images[:losses]
        compared, others = torch.split(first, batch_size), images[len(first) : self.recipe.images]
        if split.names:
            self._at(reference, "given", functools.partial(split.keep, compared))
        if not self._labels:
            return compared if split.names else ()
        return (*compared, *(torch.split(others, batch_size) if len(others) else ()))

    def measure(self, points: Sequence[Weights], check_stop: StopCheck = no_check) -> list[dict[str, float]]:
        """Every measure, by name, at each of the points, whose tensors are on the device and stay as they are.

        What is not finite stays so: losses are infinite or NaN, and probes of embeddings that are not finite NaN.
        """
        found, embedded = [], []
        for weights in points:
            check_stop()
            values, embeddings = self._at(weights, self._statistics, self._pass)
            found.append(values)
            embedded.append([Features(*each) for each in zip(embeddings, self._labels, strict=False)])
        if self._labels:
            for values, more in zip(found, self._probes(embedded, check_stop), strict=True):
                values |= more
        return [{name: values[name] for name in self.names} for values in found]

    @torch.no_grad()
    def _at(self, weights: Weights, statistics: str, work: Callable[[Network], Any]) -> Any:
        """What ``work`` gives of the network with these weights."""
        by_batch = statistics == "batch"
        # A batch norm that uses a batch's statistics writes into its buffers.
        own = {name: each.clone() if by_batch and name in self._buffers else each for name, each in weights.items()}
        network = self._holder.network
        with batch_statistics(network) if by_batch else evaluation_mode(network):
            return functional_call(self._holder, {f"network.{name}": each for name, each in own.items()}, (work,))

    def _pass(self, network: Network) -> tuple[dict[str, float], list[Tensor]]:
        """The losses of both splits, and the embeddings of the images that are probed, float32 [N, D] a split."""
        values: dict[str, float] = {}
        embeddings = []
        for split, batches in zip(self._splits, self._batches, strict=True):
            found, embedded = split.measure(network, batches)
            values |= found
            embeddings.append(embedded[: self.recipe.images])
        return values, embeddings

    def _probes(self, embedded: Sequence[Sequence[Features]], check_stop: StopCheck) -> list[dict[str, float]]:
        finite = [all(bool(each.x.isfinite().all()) for each in splits) for splits in embedded]
        classifiers: Sequence[Sequence[Classifier]] = [()] * len(embedded)
        if any(name.startswith("linear") for name in self.names):
            # Zeros in place of what is not finite: the batch has the same size.
            problems = [
                Problem(train.x if sound else torch.zeros_like(train.x), train.y, self.recipe.seed)
                for (train, _), sound in zip(embedded, finite, strict=True)
            ]
            classifiers = self._linear.fit(problems, check_stop)
        nothing = dict.fromkeys(PROBES, math.nan)
        return [
            self._probe(train, test, trained, check_stop) if sound else nothing
            for (train, test), trained, sound in zip(embedded, classifiers, finite, strict=True)
        ]

    def _probe(
        self, train: Features, test: Features, linear: Sequence[Classifier], check_stop: StopCheck
    ) -> dict[str, float]:
        """The accuracies of one point's classifiers, of which ``linear`` are trained."""
        recipe = self.recipe
        fitted = functools.partial(screen, fit_ridge, classes=self.classes, l2=recipe.l2, check_stop=check_stop)
        neighbours = functools.partial(knn_accuracy, k=recipe.neighbours, classes=self.classes, check_stop=check_stop)
        x = standardise(train.x, test.x) if self._standardized else (train.x, test.x)
        scaled = [Features(each, split.y) for each, split in zip(x, (train, test), strict=True)]
        measures: dict[str, Callable[[], float]] = {
            "linear": lambda: linear[0].accuracy(*test),
            "linear_standardized": lambda: linear[1].accuracy(*scaled[1]),
            "ridge": lambda: fitted(train, test),
            "knn": lambda: neighbours(*train, *test),
            "knn_standardized": lambda: neighbours(*scaled[0], *scaled[1]),
        }
        return {name: measure() for name, measure in measures.items() if name in self.names}


class _Holder(nn.Module):
    """A network whose weights ``functional_call`` replaces while ``work`` uses it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[Network], Any]) -> Any:
        return work(self.network)


class _Softmax(NamedTuple):
    """Logits [B, m], their softmax [B, m], log-normalisers [B] and entropies [B]."""

    logits: Tensor
    probabilities: Tensor
    normalisers: Tensor
    entropies: Tensor


def _softmax(logits: Tensor) -> _Softmax:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _Softmax(logits, *softmax_rows(logits))


def _kl(logits: Tensor, reference: _Softmax) -> Tensor:
    """KL(reference || softmax of ``logits``) of every row, [B]."""
    logits = logits.to(reference.logits)
    means, excesses = compared_rows(logits, reference.logits, reference.probabilities)
    if bool((excesses < 1).all()):  # no normaliser is needed, which would take a third of the time
        return excesses.log1p()
    return from_excess(excesses, logits.logsumexp(dim=1) - reference.normalisers - means)


class _SplitLosses:
    """The losses ``names`` of one split, and what is kept of the reference for them."""

    def __init__(self, split: str, names: Sequence[str], precision: str) -> None:
        self.split, self.names, self.precision = split, names, precision
        self._of_outputs = any(name != "kl_embedding" for name in names)
        self._compared = 0
        self._embeddings: list[_Softmax] = []
        self._targets: list[Callable[[], _Softmax]] = []

    def keep(self, batches: Sequence[Tensor], network: Network) -> None:
        """Keep what the reference, ``network``, gives for inputs [B, C, H, W]."""
        self._compared = sum(map(len, batches))
        projector = network.projector
        wide = 2 * 4 * self._compared * projector.out_dim > KEPT_BYTES
        projector = copy.deepcopy(projector) if wide else projector
        directions = projector.directions()
        for x in batches:
            embeddings = self._encode(network, x)
            self._embeddings.append(_softmax(embeddings))
            if self._of_outputs:
                target = functools.partial(self._target, projector, embeddings, directions)
                self._targets.append(target if wide else functools.partial(_Softmax, *target()))

    def _target(self, *given: Any) -> _Softmax:
        return _softmax(self._logits(*given))

    def measure(self, network: Network, batches: Sequence[Tensor]) -> tuple[dict[str, float], Tensor]:
        """The means of the losses over the first batches, those of ``keep``, and the embeddings of all, float32."""
        directions = network.projector.directions() if self._of_outputs else None
        sums, embedded = dict[str, Tensor](), []
        for number, x in enumerate(batches):
            embeddings = self._encode(network, x)
            embedded.append(embeddings.float())
            if number < len(self._embeddings):
                for name, rows in self._rows(network.projector, embeddings, directions, number).items():
                    sums[name] = sums.get(name, 0.0) + rows.sum(dtype=torch.float64)
        values = {f"{name}_{self.split}": float(total) / self._compared for name, total in sums.items()}
        return values, torch.cat(embedded) if embedded else torch.empty(0)

    def _rows(
        self, projector: Projector, embeddings: Tensor, directions: Tensor | None, number: int
    ) -> dict[str, Tensor]:
        """Losses [B] of each image of a batch."""
        found = {}
        if self._of_outputs:
            logits, target = self._logits(projector, embeddings, directions), self._targets[number]()
            found["kl"] = _kl(logits, target)
            found["cross_entropy"] = found["kl"].double() + target.entropies
        if "entropy" in self.names:
            found["entropy"] = _softmax(logits).entropies
        if "kl_embedding" in self.names:
            found["kl_embedding"] = _kl(embeddings, self._embeddings[number])
        return {name: found[name] for name in self.names}

    def _encode(self, network: Network, x: Tensor) -> Tensor:
        with arithmetic(self.precision, x.device):
            embeddings: Tensor = network.encoder(x)
        return embeddings

    def _logits(self, projector: Projector, embeddings: Tensor, directions: Tensor | None) -> Tensor:
        with arithmetic(self.precision, embeddings.device):
            return projector.logits(projector.features(embeddings), directions)

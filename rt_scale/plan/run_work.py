"""What a run computes, counted from its spec and the numbers of its data sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rt_scale.data.datasets.base import DataInfo
from rt_scale.experiments.check import constant_targets, probed_size
from rt_scale.models.networks import Network, empty_network
from rt_scale.plan.queue import evaluations, training_steps
from rt_scale.plan.rates import Rates
from rt_scale.plan.work import Work, count
from rt_scale.spec.run import RunSpec
from rt_scale.training.precision import parameter_dtype

EFFICIENCY = 0.9
"""Speed of several workers at what they share, over that of one times their number (assumed; Goyal et al. 2017,
arXiv:1706.02677, report about 0.9 from 8 to 256 GPUs; small networks and slow links have less)."""
BACKWARD = 3
"""Forward and backward pass over the forward pass alone."""
OPTIMIZER_PASSES, OPTIMIZER_CALLS = 8, 2
"""Reads and writes of every parameter, and calls a parameter tensor, in a fused step (assumed)."""
OBJECTIVE_PASSES = 12
"""Reads and writes of every logit for softmaxes, their logarithms, sums and gradients (assumed)."""
AUGMENT_PASSES = 60
"""Reads and writes of every value of an augmented view (assumed)."""
PROBE_CALLS = 25
"""Calls a step of the linear classifier (assumed)."""
NEIGHBOUR_PASSES = 6
"""Reads and writes of every distance for the nearest neighbours (assumed)."""
LOGISTIC_PASSES = 60
"""Passes over the embeddings until logistic regression has converged (assumed)."""


def meta_network(spec: RunSpec, info: DataInfo) -> Network:
    """The network of ``spec`` for images of ``info``, without memory, in evaluation mode."""
    network = empty_network(spec, info.channels, spec.data.size or info.size)
    return network.to(parameter_dtype(spec.precision)).eval()


@dataclass(frozen=True)
class RunWork:
    """What a run computes, by part.

    Attributes:
        start: once: a constant teacher's features, probes of the input and of a frozen teacher.
        step: every optimiser step.
        evaluation: every probing.
        fits_at_start: the probes' part in ``start``, which the first of several workers computes alone.
        fits: the same in ``evaluation``.
        steps: optimiser steps of the run.
        steps_per_epoch: of an epoch.
        evaluations: probings of the run.
    """

    start: Work
    step: Work
    evaluation: Work
    fits_at_start: Work
    fits: Work
    steps: int
    steps_per_epoch: int
    evaluations: int

    @property
    def total(self) -> Work:
        """Of the whole run."""
        return self.start + self.step * self.steps + self.evaluation * self.evaluations

    def seconds_of(self, rates: Rates, steps: int, evaluations: int) -> float:
        """Time that a run of other length takes on a device of ``rates``."""
        return replace(self, steps=steps, evaluations=evaluations).seconds(rates)

    def seconds(self, rates: Rates, workers: int = 1) -> float:
        """Time that it takes ``workers`` processes, which share every batch, on a device of ``rates`` each."""
        nothing, efficiency = Work(), EFFICIENCY if workers > 1 else 1.0
        parts = (
            (self.start, self.fits_at_start, 1),
            (self.step, nothing, self.steps),
            (self.evaluation, self.fits, self.evaluations),
        )
        return sum(
            (rates.seconds(alone) + _shared(whole, alone, rates, workers) / efficiency) * times
            for whole, alone, times in parts
        )


def _shared(whole: Work, alone: Work, rates: Rates, workers: int) -> float:
    return rates.seconds(whole.among(workers)) - rates.seconds(alone.among(workers))


def count_run(spec: RunSpec, info: DataInfo, also: Mapping[str, DataInfo], *, cached: bool = True) -> RunWork:
    """Count what ``spec`` computes.

    Args:
        spec: the run.
        info: of the data set that it distils on.
        also: of those in ``probe.also``, by name.
        cached: whether a constant teacher's features are computed once.

    Raises:
        InputError: images that the encoder cannot take.
    """
    return _Counter(spec, info, also, cached).run()


class _Counter:
    def __init__(self, spec: RunSpec, info: DataInfo, also: Mapping[str, DataInfo], cached: bool) -> None:
        self.spec, self.info, self.also = spec, info, also
        self.network = meta_network(spec, info)
        self.size, self.batch = spec.data.size or info.size, spec.train.batch_size
        self.samples = spec.data.samples or info.train
        self.cached = cached and constant_targets(spec)
        self.embedding = self._embedding(self.size)

    def run(self) -> RunWork:
        steps, an_epoch = training_steps(self.spec, self.info.train)
        probing = self._probing(lambda size: self.network.encoder.embed_dim)
        student, pixels = probing + self._embeddings(), self._probing(lambda size: self.info.channels * size**2)
        teacher_moves = self.spec.teacher.moves
        start, fits_at_start = (pixels, pixels) if teacher_moves else (pixels + student, pixels + probing)
        evaluation, fits = (student * 2, probing * 2) if teacher_moves else (student, probing)
        if self.cached:
            images = self._images(self.size)
            start = start + count(lambda: self.network.features(images)) * (self.samples / self.batch)
        if self.spec.kind == "supervise":
            evaluation = evaluation + self.embedding * (self.info.test / self.batch)
        # The last step of an epoch takes what is left.
        step = self._step() * (self.samples / self.batch / an_epoch)
        probings = evaluations(self.spec, self.info.train)
        return RunWork(start, step, evaluation, fits_at_start, fits, steps, an_epoch, probings)

    def _images(self, size: int) -> Tensor:
        dtype = parameter_dtype(self.spec.precision)
        return torch.empty(self.batch, self.info.channels, size, size, device="meta", dtype=dtype)

    def _step(self) -> Work:
        views, seen = self._views()
        student = count(lambda: self.network.of_views(views)) * BACKWARD
        parameters = list(self.network.parameters())
        update = Work(
            traffic=OPTIMIZER_PASSES * sum(each.numel() * each.element_size() for each in parameters),
            calls=OPTIMIZER_CALLS * len(parameters),
        )
        logits = len(views) * self.batch * self.spec.projector.out_dim
        made = sum(view.numel() for view in views) * (1 if self.spec.augment.kind == "none" else AUGMENT_PASSES)
        return student + update + self._teacher(seen) + Work(traffic=4 * (OBJECTIVE_PASSES * logits + made))

    def _views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views that the student sees, and those of them that the teacher sees."""
        augment = self.spec.augment
        if augment.kind != "multicrop":
            return [self._images(self.size)], [self._images(self.size)]
        wide = [self._images(augment.global_size)] * augment.global_views
        return wide + [self._images(augment.local_size)] * augment.local_views, wide

    def _teacher(self, views: list[Tensor]) -> Work:
        if self.spec.kind == "supervise":
            return Work()
        if not self.cached:
            return count(lambda: self.network.of_views(views))
        projector = self.network.projector
        features = torch.empty(
            self.batch, projector.feature_width, device="meta", dtype=parameter_dtype(self.spec.precision)
        )
        with torch.no_grad():
            directions = projector.directions()
        return count(lambda: projector.logits(features, directions))

    def _embeddings(self) -> Work:
        """The encoder on every image that is probed on."""
        images = self.samples + self.info.test if self.info.labelled and self.spec.probe.own else 0
        work = self.embedding * (images / self.batch)
        for info in self.also.values():
            size = probed_size(self.spec, self.info, info)
            embedding = self.embedding if size == self.size else self._embedding(size)
            work += embedding * ((info.train + info.test) / self.batch)
        return work

    def _embedding(self, size: int) -> Work:
        """The encoder on a batch of images of ``size`` x ``size`` pixels."""
        images = self._images(size)
        return count(lambda: self.network.encoder(images))

    def _probing(self, width: Callable[[int], int]) -> Work:
        """Every probe on every data set, on vectors that are as wide as ``width`` says for the side of its images."""
        work = Work()
        if self.info.labelled and self.spec.probe.own:
            work += self._probes(self.samples, self.info.test, width(self.size), len(self.info.classes))
        for info in self.also.values():
            wide = width(probed_size(self.spec, self.info, info))
            work += self._probes(info.train, info.test, wide, len(info.classes))
        return work * (2 if self.spec.probe.standardized else 1)

    def _probes(self, train: int, test: int, width: int, classes: int) -> Work:
        probe, pass_over = self.spec.probe, 4.0 * train * width * classes
        work = Work(traffic=8.0 * (train + test) * width)
        if probe.linear:
            steps = probe.epochs * math.ceil(train / probe.batch_size)
            rows = 8.0 * probe.batch_size * width + 4.0 * OPTIMIZER_PASSES * width * classes
            work += Work(product=probe.epochs * pass_over, traffic=steps * rows, calls=steps * PROBE_CALLS)
        if probe.knn:
            traffic = 4.0 * NEIGHBOUR_PASSES * train * test
            work += Work(product=2.0 * train * test * width, traffic=traffic, calls=12)
        if probe.logistic:
            work += Work(product=LOGISTIC_PASSES * pass_over, calls=20 * LOGISTIC_PASSES)
        if probe.ridge:
            work += Work(product=2.0 * train * width**2 + width**3 / 3, calls=20)
        return work

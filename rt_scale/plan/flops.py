"""The work of a run: FLOPs, counted by torch on meta tensors, and memory traffic and calls, by formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rt_scale.data.datasets.base import DataInfo
from rt_scale.experiments.check import constant_targets, probed_size
from rt_scale.models.networks import Network, empty_network
from rt_scale.spec.kinds import TrainingSpec
from rt_scale.spec.schedule import duration_steps
from rt_scale.spec.training import OptimizerSpec
from rt_scale.training.precision import parameter_dtype

EFFICIENCY = 0.9
"""Parallel efficiency of several workers (assumed; Goyal et al. 2017, arXiv:1706.02677, report about 0.9 from 8 to 256
GPUs; small networks and slow links have less)."""
MODULE_CALLS, MODULE_PASSES = 2, 2
"""Per module and forward pass: operations issued, and reads and writes of the output of one without FLOPs; a backward
pass takes twice as much (assumed)."""
OPTIMIZER_PASSES, OPTIMIZER_CALLS = 8, 2
"""Reads and writes of every parameter, and calls per parameter tensor, in a fused step (assumed)."""
OBJECTIVE_PASSES = 12
"""Reads and writes of every logit for softmaxes, their logarithms, sums and gradients (assumed)."""
AUGMENT_PASSES = 60
"""Reads and writes of every value of an augmented view (assumed)."""
PROBE_CALLS = 25
"""Calls per step of the linear classifier (assumed)."""
NEIGHBOUR_PASSES = 6
"""Reads and writes of every distance for the nearest neighbours (assumed)."""
LOGISTIC_PASSES = 60
"""Passes over the embeddings until logistic regression has converged (assumed)."""


@dataclass(frozen=True)
class Work:
    """An amount of computation.

    Attributes:
        network: FLOPs of passes through the network (a multiplication and an addition are two).
        product: FLOPs of other matrix products.
        activations: bytes read and written by the network's modules without FLOPs.
        traffic: bytes read and written by everything else.
        calls: operations issued from Python; CUDA graphs and compiling need fewer.
    """

    network: float = 0.0
    product: float = 0.0
    activations: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, factor: float) -> Work:
        return Work(*(amount * factor for amount in vars(self).values()))

    def among(self, workers: int) -> Work:
        """The part of each of ``workers`` that divide the images; each of them issues all operations."""
        return replace(self * (1 / workers), calls=self.calls)


@dataclass(frozen=True)
class Rates:
    """The speed of a device, and how it is known.

    Attributes:
        network: FLOP/s of the run's own network.
        product: FLOP/s of other matrix products.
        activations: bytes/s in the network; infinite if ``network`` was measured, which includes them.
        traffic: bytes/s of everything else.
        call: seconds to issue one operation.
        overlaps: whether operations are issued while others compute, as on GPUs.
        how: source, in words.
    """

    network: float
    product: float
    activations: float
    traffic: float
    call: float
    overlaps: bool
    how: str

    def seconds(self, work: Work) -> float:
        """Seconds for ``work``."""
        computing = work.network / self.network + work.product / self.product
        computing += work.activations / self.activations + work.traffic / self.traffic
        issuing = work.calls * self.call
        return max(computing, issuing) if self.overlaps else computing + issuing


@dataclass(frozen=True)
class RunWork:
    """The work of a run, by part.

    Attributes:
        start: once: a constant teacher's features, probes of the input and of a frozen teacher.
        step: every optimiser step.
        evaluation: every probing.
        fits_at_start: the probes' part in ``start``, which only the first of several workers computes.
        fits: the same in ``evaluation``.
        steps: number of optimiser steps.
        evaluations: number of probings.
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
        """Work of the whole run."""
        return self.start + self.step * self.steps + self.evaluation * self.evaluations

    def seconds(self, rates: Rates, workers: int = 1) -> float:
        """Seconds with ``workers`` processes that divide every batch, each on a device of ``rates``."""
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


def training_steps(spec: TrainingSpec, images: int) -> tuple[int, int]:
    """Optimiser steps of the run, and of one epoch; ``images``: training images of its data set."""
    an_epoch = -(-(spec.data.samples or images) // spec.train.batch_size)
    return spec.train.epochs * an_epoch, an_epoch


def evaluations(spec: TrainingSpec, images: int) -> int:
    """Number of probings: at the start, every ``probe.every``, and at the end; ``images``: training images."""
    steps, an_epoch = training_steps(spec, images)
    every = duration_steps(spec.probe.every, an_epoch) if spec.probe.every else steps
    return 1 + steps // every + (steps % every > 0)


def meta_network(spec: TrainingSpec, info: DataInfo) -> Network:
    """The network of ``spec`` for images of ``info``, on the meta device, in evaluation mode."""
    network = empty_network(spec, info.channels, spec.data.size or info.size)
    return network.to(parameter_dtype(spec.precision)).eval()


def checkpoint_bytes(spec: TrainingSpec, info: DataInfo) -> int:
    """Bytes of a checkpoint to within some kB: weights, a moving teacher's weights, and the optimiser's moments."""
    network = meta_network(spec, info)
    weights: int = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    trained: int = sum(each.numel() * each.element_size() for each in network.parameters() if each.requires_grad)
    return weights * (2 if spec.teacher.moves else 1) + trained * _moments(spec.train.optimizer)


def _moments(optimizer: OptimizerSpec) -> int:
    """Numbers that the optimiser keeps per parameter."""
    return int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2


class _Activations:
    """Sums the bytes that modules without FLOPs read and write, by forward hooks."""

    def __init__(self, network: Network) -> None:
        self.bytes = 0.0
        for module in network.modules():
            if not list(module.children()) and not isinstance(module, nn.Conv2d | nn.Linear | nn.Identity):
                module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, given: object, made: Tensor) -> None:
        self.bytes += MODULE_PASSES * made.numel() * made.element_size()


def flops(function: Callable[[], object]) -> float:
    """FLOPs of ``function``, backward passes included, by torch's formulas (products, convolutions, attention); it must
    use meta tensors."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return float(counter.get_total_flops())


def count_run(spec: TrainingSpec, info: DataInfo, also: Mapping[str, DataInfo], *, cached: bool = True) -> RunWork:
    """Count the work of ``spec`` on the data set of ``info``, probed on the sets in ``also``, too.

    If ``cached``, a constant teacher's features are computed once. InputError: images that the encoder does not accept.
    """
    return _Counter(spec, info, also, cached).run()


class _Counter:
    def __init__(self, spec: TrainingSpec, info: DataInfo, also: Mapping[str, DataInfo], cached: bool) -> None:
        self.spec, self.info, self.also = spec, info, also
        self.network = meta_network(spec, info)
        self.activations = _Activations(self.network)
        self.calls = MODULE_CALLS * sum(not list(module.children()) for module in self.network.modules())
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
            start = start + self._forward(lambda: self.network.features(images)) * (self.samples / self.batch)
        if self.spec.learns_labels:
            evaluation = evaluation + self.embedding * (self.info.test / self.batch)
        # The last batch of an epoch may be smaller.
        step = self._step() * (self.samples / self.batch / an_epoch)
        probings = evaluations(self.spec, self.info.train)
        return RunWork(start, step, evaluation, fits_at_start, fits, steps, an_epoch, probings)

    def _images(self, size: int) -> Tensor:
        dtype = parameter_dtype(self.spec.precision)
        return torch.empty(self.batch, self.info.channels, size, size, device="meta", dtype=dtype)

    def _forward(self, function: Callable[[], object]) -> Work:
        with torch.no_grad():
            return self._passes(function, 1)

    def _passes(self, function: Callable[[], object], times: int) -> Work:
        """Passes with ``times`` the memory traffic and calls of a forward pass."""
        before = self.activations.bytes
        counted = flops(function)
        return Work(network=counted, activations=times * (self.activations.bytes - before), calls=times * self.calls)

    def _step(self) -> Work:
        views, seen = self._views()
        student = self._passes(lambda: torch.autograd.backward(self.network.of_views(views).sum()), 3)
        parameters = list(self.network.parameters())
        update = Work(
            traffic=OPTIMIZER_PASSES * sum(each.numel() * each.element_size() for each in parameters),
            calls=OPTIMIZER_CALLS * len(parameters),
        )
        logits = len(views) * self.batch * self.spec.projector.out_dim
        made = sum(view.numel() for view in views) * (1 if self.spec.augment.kind == "none" else AUGMENT_PASSES)
        return student + update + self._teacher(seen) + Work(traffic=4 * (OBJECTIVE_PASSES * logits + made))

    def _views(self) -> tuple[list[Tensor], list[Tensor]]:
        """The student's views, and the teacher's among them."""
        augment = self.spec.augment
        if augment.kind != "multicrop":
            return [self._images(self.size)], [self._images(self.size)]
        wide = [self._images(augment.global_size)] * augment.global_views
        return wide + [self._images(augment.local_size)] * augment.local_views, wide

    def _teacher(self, views: list[Tensor]) -> Work:
        if self.spec.learns_labels:
            return Work()
        if not self.cached:
            return self._forward(lambda: self.network.of_views(views))
        projector, dtype = self.network.projector, parameter_dtype(self.spec.precision)
        features = torch.empty(self.batch, projector.feature_width, device="meta", dtype=dtype)
        with torch.no_grad():
            directions = projector.directions()
            return Work(network=flops(lambda: projector.logits(features, directions)), calls=1)

    def _embeddings(self) -> Work:
        """The encoder on every probed image."""
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
        return self._forward(lambda: self.network.encoder(images))

    def _probing(self, width: Callable[[int], int]) -> Work:
        """Every probe on every data set, on vectors of ``width(side of its images in pixels)`` numbers."""
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

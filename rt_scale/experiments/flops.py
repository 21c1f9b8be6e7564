"""The work of a run: FLOPs, counted by torch on meta tensors, and memory traffic and calls, by formulas.

How long it takes follows from the rates of a device, which are assumed here or measured (``plan.measure``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rt_scale.data.meta import DataInfo
from rt_scale.experiments.base import Length
from rt_scale.experiments.check import constant_targets, probed_size
from rt_scale.models.networks import Network, empty_network
from rt_scale.probes.layers import layer_outputs
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.schedule import duration_steps
from rt_scale.spec.training import ProbeSpec
from rt_scale.training.precision import parameter_dtype

EFFICIENCY = 0.9
"""Parallel efficiency of several workers (assumed; Goyal et al. 2017, arXiv:1706.02677, report about 0.9 from 8 to 256
GPUs; small networks and slow links have less)."""
RUN_SECONDS = 0.5
"""Seconds of a run beside its computing, where they are not measured (assumed)."""
MODULE_CALLS = 2
"""Operations issued per module and forward pass; a backward pass issues twice as many (assumed)."""
OPTIMIZER_PASSES, OPTIMIZER_CALLS = 8, 2
"""Reads and writes of every parameter, and calls per parameter tensor, in a fused step (assumed)."""
OBJECTIVE_PASSES = 12
"""Reads and writes of every logit for softmaxes, their logarithms, sums and gradients (assumed)."""
MEAN_PASSES = 6
"""Reads and writes of every logit for the mean with one more teacher (assumed)."""
AUGMENT_PASSES = 60
"""Reads and writes of every value of an augmented view (assumed)."""
PROBE_CALLS = 25
"""Calls per step of the linear classifier (assumed)."""
NEIGHBOUR_PASSES = 6
"""Reads and writes of every distance for the nearest neighbours (assumed)."""
LOGISTIC_PASSES = 60
"""Passes over the embeddings until logistic regression has converged (assumed)."""
GPU_TRAFFIC, GPU_CALL = 1.5e12, 8e-6
"""Bytes/s, and seconds to issue an operation from Python, of a typical GPU (assumed)."""


@dataclass(frozen=True)
class Rates:
    """The speed of a device, and how it is known.

    Attributes:
        network: FLOP/s of the run's own network, its memory traffic included.
        product: FLOP/s of other matrix products.
        traffic: bytes/s of everything else.
        call: seconds to issue one operation.
        overlaps: whether operations are issued while others compute, as on GPUs.
        how: source, in words.
        run: seconds of a run beside its computing: its networks, files, checkpoints and result.
    """

    network: float
    product: float
    traffic: float
    call: float
    overlaps: bool
    how: str
    run: float = RUN_SECONDS


def assumed(teraflops: float) -> Rates:
    """Rates of a GPU that is not here: ``teraflops`` (TFLOP/s), and those of a typical GPU for the rest."""
    how = (
        f"FLOPs counted, at an assumed {teraflops:g} TFLOP/s, {GPU_TRAFFIC / 1e12:g} TB/s and "
        f"{GPU_CALL * 1e6:g} us an operation"
    )
    return Rates(teraflops * 1e12, teraflops * 1e12, GPU_TRAFFIC, GPU_CALL, True, how)


@dataclass(frozen=True)
class Work:
    """An amount of computation.

    Attributes:
        network: FLOPs of passes through the network (a multiplication and an addition are two).
        product: FLOPs of other matrix products.
        traffic: bytes read and written outside of the network.
        calls: operations issued from Python; CUDA graphs and compiling need fewer.
    """

    network: float = 0.0
    product: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, factor: float) -> Work:
        return Work(*(amount * factor for amount in vars(self).values()))

    def seconds(self, rates: Rates) -> float:
        """Seconds on a device of ``rates``."""
        computing = self.network / rates.network + self.product / rates.product + self.traffic / rates.traffic
        issuing = self.calls * rates.call
        return max(computing, issuing) if rates.overlaps else computing + issuing


class Phase(NamedTuple):
    """Work that several workers share, and that of the first one alone, which fits the probes."""

    shared: Work
    alone: Work = Work()

    def seconds(self, rates: Rates, workers: int) -> float:
        """Seconds with workers that divide the images; each issues all operations."""
        among = replace(self.shared * (1 / workers), calls=self.shared.calls)
        return among.seconds(rates) / (EFFICIENCY if workers > 1 else 1.0) + self.alone.seconds(rates)


class RunWork(NamedTuple):
    """The work of a run: once (a constant teacher's features, probes that are fitted once), per step, per probing."""

    start: Phase
    step: Phase
    evaluation: Phase

    def seconds(self, rates: Rates, length: Length, workers: int = 1) -> float:
        """Seconds of a run of that length with ``workers`` processes, each on a device of ``rates``."""
        start, step, evaluation = (phase.seconds(rates, workers) for phase in self)
        return rates.run + start + length.steps * step + length.evaluations * evaluation


def run_length(spec: TrainingSpec, images: int) -> Length:
    """The length of a run; ``images``: training images of its data set."""
    epoch = -(-(spec.data.samples or images) // spec.train.batch_size)
    first, end = spec.first_step(epoch), spec.train.end(epoch)
    every = duration_steps(spec.probe.every, epoch) if spec.probe.every else spec.train.length(epoch)
    within = (end - 1) // every - first // every
    return Length(end - first, epoch, 2 + within if end > first else 1, first)  # at the start, within, at the end


def meta_network(spec: TrainingSpec, info: DataInfo, role: str = "student") -> Network:
    """The network of ``spec`` for images of ``info``, on the meta device, in evaluation mode."""
    network = empty_network(spec, info.channels, spec.data.size or info.size, role)
    return network.to(parameter_dtype(spec.precision)).eval()


def meta_batch(spec: TrainingSpec, info: DataInfo) -> tuple[Network, Tensor]:
    """That network, and a batch of images [B, C, S, S] on the meta device."""
    size, dtype = spec.data.size or info.size, parameter_dtype(spec.precision)
    images = torch.empty(spec.train.batch_size, info.channels, size, size, device="meta", dtype=dtype)
    return meta_network(spec, info), images


def flops(function: Callable[[], object]) -> float:
    """FLOPs of ``function``, backward passes included, by torch's formulas (products, convolutions, attention); it must
    use meta tensors."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return float(counter.get_total_flops())


def forward_work(spec: TrainingSpec, info: DataInfo) -> Work:
    """One pass of a training batch of ``spec`` through its network, without gradients."""
    network, images = meta_batch(spec, info)
    with torch.no_grad():
        return Work(network=flops(lambda: network(images)), calls=_calls(network))


def _calls(network: Network) -> int:
    return MODULE_CALLS * sum(not list(module.children()) for module in network.modules())


def count_run(spec: TrainingSpec, info: DataInfo, also: Mapping[str, DataInfo]) -> RunWork:
    """Count the work of ``spec`` on the data set of ``info``, probed on the sets in ``also``, too.

    InputError: images that the encoder does not accept.
    """
    return _Counter(spec, info, also).run()


class _Counter:
    def __init__(self, spec: TrainingSpec, info: DataInfo, also: Mapping[str, DataInfo]) -> None:
        self.spec, self.info, self.also = spec, info, also
        self.network = meta_network(spec, info)
        self.teacher = self.network if spec.teacher.width is None else meta_network(spec, info, "teacher")
        self.teachers = spec.teacher.count or 1
        self.size, self.batch = spec.data.size or info.size, spec.train.batch_size
        self.samples = spec.data.samples or info.train
        self.length = run_length(spec, info.train)
        self.cached = constant_targets(spec) and self.length.steps > 0
        own = [(self.samples, info.test, self.size, len(info.classes))] if info.labelled and spec.probe.own else []
        others = [(each.train, each.test, probed_size(spec, info, each), len(each.classes)) for each in also.values()]
        self.probed = own + others  # training and test images, their side in pixels, classes

    def run(self) -> RunWork:
        roles = self.spec.probe.roles
        embed, fit = self._probing(self.network) if roles else (Work(), Work())
        embed_teacher, fit_teacher = self._probing(self.teacher) if "teacher" in roles else (Work(), Work())
        moves = self.spec.teacher.moves  # else it is probed once
        start, once = (Work(), Work()) if moves else (embed_teacher, fit_teacher)
        evaluation, alone = (embed + embed_teacher, fit + fit_teacher) if moves else (embed, fit)
        if self.spec.probes_its_teacher_alone and not (self.spec.probe.statistics or self.spec.classifies):
            evaluation, alone = Work(), Work()
        if "input" in roles:
            for train, test, size, classes in self.probed:
                once += probe_work(self.spec.probe, train, test, self.info.channels * size**2, classes)
        if self.cached:
            images = self._images(self.size)
            features = self._passes(self.teacher, self.teacher.features, images)
            start += features * (self.teachers * self.samples / self.batch)
        if self.spec.classifies and self.spec.probe.own:
            tested = self._classifying() if roles else self._classifying() + self._embedding(self.network, self.size)
            evaluation += tested * (self.info.test / self.batch)
        if (curvature := self.spec.probe.curvature) is not None:  # a product is a step, and a backward pass of it
            evaluation += self._student() * (3 * curvature.products * curvature.images / self.batch)
        if self.spec.probe.layers is not None:  # the first worker measures them
            images_of_layers, compared = self.spec.probe.layers.images, self.spec.probe.baselines
            alone += self._layers(self.network, images_of_layers)
            of_teacher = self._layers(self.teacher, images_of_layers) if compared else Work()
            once, alone = (once, alone + of_teacher) if moves else (once + of_teacher, alone)
        # The last batch of an epoch may be smaller.
        step = self._step() * (self.samples / self.batch / self.length.epoch)
        return RunWork(Phase(start, once), Phase(step), Phase(evaluation, alone))

    def _images(self, size: int) -> Tensor:
        dtype = parameter_dtype(self.spec.precision)
        return torch.empty(self.batch, self.info.channels, size, size, device="meta", dtype=dtype)

    def _probing(self, network: Network) -> tuple[Work, Work]:
        """Embedding the images of every probed set, and fitting classifiers on the embeddings."""
        embed, fit = Work(), Work()
        for train, test, size, classes in self.probed:
            embed += self._embedding(network, size) * ((train + test) / self.batch)
            fit += probe_work(self.spec.probe, train, test, network.encoder.embed_dim, classes)
        return embed, fit

    def _passes(self, network: Network, function: Callable[[Any], Tensor], inputs: object) -> Work:
        """``function`` of a part of ``network``, without a backward pass."""
        with torch.no_grad():
            return Work(network=flops(lambda: function(inputs)), calls=_calls(network))

    def _step(self) -> Work:
        views, seen = self._views()
        student = self._student(views)
        parameters = list(self.network.parameters())
        update = Work(
            traffic=OPTIMIZER_PASSES * sum(each.numel() * each.element_size() for each in parameters),
            calls=OPTIMIZER_CALLS * len(parameters),
        )
        logits = len(views) * self.batch * self.spec.projector.out_dim
        made = sum(view.numel() for view in views) * (1 if self.spec.augment.kind == "none" else AUGMENT_PASSES)
        passes = OBJECTIVE_PASSES + MEAN_PASSES * (self.teachers - 1)
        return student + update + self._teacher(seen) * self.teachers + Work(traffic=4 * (passes * logits + made))

    def _student(self, views: Sequence[Tensor] = ()) -> Work:
        """Forward and backward pass of a batch's views, or of its images."""
        views = views or [self._images(self.size)]
        counted = flops(lambda: torch.autograd.backward(self.network.of_views(views).sum()))
        return Work(network=counted, calls=3 * _calls(self.network))

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
            return self._passes(self.teacher, self.teacher.of_views, views)
        projector, dtype = self.teacher.projector, parameter_dtype(self.spec.precision)
        features = torch.empty(self.batch, projector.feature_width, device="meta", dtype=dtype)
        with torch.no_grad():
            directions = projector.directions()
            return Work(network=flops(lambda: projector.logits(features, directions)), calls=1)

    def _embedding(self, network: Network, size: int) -> Work:
        """The encoder on a batch of images of ``size`` x ``size`` pixels."""
        return self._passes(network, network.encoder, self._images(size))

    def _layers(self, network: Network, images: int) -> Work:
        """The statistics of every layer of one network."""
        widths = [output.shape[1] for output in layer_outputs(network.encoder, self._images(self.size))]
        products = sum(2.0 * images * width * min(images, width) for width in widths)
        return self._embedding(network, self.size) * (images / self.batch) + Work(product=products)

    def _classifying(self) -> Work:
        """The projector on a batch of embeddings."""
        dtype = parameter_dtype(self.spec.precision)
        embeddings = torch.empty(self.batch, self.network.encoder.embed_dim, device="meta", dtype=dtype)
        return self._passes(self.network, self.network.projector, embeddings)


def probe_work(probe: ProbeSpec, train: int, test: int, width: int, classes: int) -> Work:
    """Every classifier of ``probe``, fitted on ``train`` and applied to ``test`` vectors of ``width`` numbers."""
    pass_over = 4.0 * train * width * classes
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
    return work * (2 if probe.standardized else 1)

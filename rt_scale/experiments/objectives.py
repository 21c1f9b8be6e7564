"""The objective of a run, built from its spec: views, teacher targets, distance or labels."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from rt_scale.data.augment.draws import augment_generator
from rt_scale.data.augment.views import augmented_inputs
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Loader
from rt_scale.data.loaders.resident import Resident, ResidentLoader
from rt_scale.data.meta import DataInfo
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.data.subsets import nested_subset, noisy_labels
from rt_scale.experiments.check import constant_targets
from rt_scale.experiments.context import Context
from rt_scale.losses.distances import view_pairs
from rt_scale.losses.own import load_objective
from rt_scale.models.networks import Network, Pair
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Distillation, Supervision, Targets, Views
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.precision import arithmetic, parameter_dtype
from rt_scale.training.teacher import Sharpening


def clean_inputs(spec: TrainingSpec, info: DataInfo, channels_last: bool) -> functools.partial[Tensor]:
    """The function from uint8 images without augmentation to network inputs [B, C, H, W]."""
    return functools.partial(
        to_inputs,
        mean=info.mean,
        std=info.std,
        size=spec.data.size,
        dtype=parameter_dtype(spec.precision),
        channels_last=channels_last,
    )


def build_views(spec: TrainingSpec, info: DataInfo, channels_last: bool, loader: Loader) -> Views:
    """From a batch's images and an optimiser step to views; they depend on the step alone, also in a resumed run."""
    if spec.augment.kind == "none":
        clean = clean_inputs(spec, info, channels_last)
        return lambda images, step: (clean(images),)

    def views(images: Tensor, step: int) -> Sequence[Tensor]:
        epoch, batch = divmod(step, loader.steps)
        return augmented_inputs(
            images,
            spec=spec.augment,
            mean=info.mean,
            std=info.std,
            size=spec.data.size,
            dtype=parameter_dtype(spec.precision),
            channels_last=channels_last,
            generator=augment_generator(spec.seeds.ordering, epoch, batch),
            share=None if loader.world == 1 else loader.share(batch),
        )

    return views


def build_sharpenings(
    spec: TrainingSpec, steps: int, steps_per_epoch: int, group: Group = ALONE
) -> dict[str, Sharpening]:
    """The sharpenings of both networks' logits, with centres over all ranks of ``group``."""
    return {
        role: Sharpening(part.temperature, part.center, steps=steps, steps_per_epoch=steps_per_epoch, group=group)
        for role, part in (("teacher", spec.teacher), ("student", spec.student))
    }


def build_objective(
    spec: TrainingSpec,
    data: Prepared | NoiseSet,
    subset: np.ndarray | None,
    views: Views,
    targets: Callable[[], Sequence[Targets]],
    sharpenings: dict[str, Sharpening],
    device: torch.device,
) -> Distillation | Supervision:
    """The objective of a run: labels, or its teacher.

    Args:
        subset: int64 [n] positions of the training images in ``data``; None: all.
        targets: of each teacher; called only by objectives that need one.
        sharpenings: of both networks' logits; their centres are updated in place.
        device: of the labels.
    """
    if not spec.learns_labels:
        several = spec.augment.kind == "multicrop"
        seen = (spec.augment.global_views, spec.augment.global_views + spec.augment.local_views)
        pairs = view_pairs(spec.objective.pairing, *(seen if several else (1, 1)))
        own = None if spec.objective.plugin is None else load_objective(spec.objective)
        first, *others = targets()
        return Distillation(
            first, views, spec.precision,
            name=spec.objective.name, pairs=pairs, sharpenings=sharpenings, own=own, others=others,
        )  # fmt: skip
    return Supervision(training_labels(spec, data, subset).to(device), views, spec.precision)


def training_labels(spec: TrainingSpec, data: Prepared | NoiseSet, subset: np.ndarray | None) -> Tensor:
    """The labels that a supervised run learns, int64 [N] on the CPU; arguments as of ``build_objective``."""
    assert isinstance(data, Prepared)  # check refuses drawn images
    # Noise before the subset, so that nested subsets have the same labels.
    labels = noisy_labels(data.train.labels, spec.objective.label_noise, len(data.info.classes), spec.seeds.data)
    return torch.from_numpy(labels if subset is None else labels[subset])


def build_targets(spec: TrainingSpec, info: DataInfo, teacher: Network, loader: Loader, context: Context) -> Targets:
    """The teacher's targets, with features computed once if they are constant and the options say so."""
    execution = context.execution
    if not (constant_targets(spec) and execution.cache_teacher):
        learn = spec.teacher.statistics == "data"
        return ComputedTargets(teacher, frozen=spec.teacher.update == "none", learn_statistics=learn)
    context.observer.stage("embedding the teacher's targets")
    inputs = clean_inputs(spec, info, execution.channels_last)
    with arithmetic(spec.precision, context.device):
        return CachedTargets(
            teacher, loader.sequential(), loader.samples, inputs, group=context.group, check_stop=context.check_stop
        )


class CleanLoss:
    """The loss of a run on ``probe.curvature.images`` training images without augmentation, differentiable twice.

    In batches of nearly ``train.batch_size``. Networks are in the mode in which they train, and keep their running
    statistics. It is in the parameters' dtype, without autocast.

    Args:
        subset, sharpenings: as of ``build_objective``; centres stay.
        pair: teacher and student, in their state at each call.
        loader: of the run; drawn inputs are its first ones.
        inputs: from ``clean_inputs``.
        resident: images that are on the device already.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        data: Prepared | NoiseSet,
        subset: np.ndarray | None,
        pair: Pair,
        sharpenings: Mapping[str, Sharpening],
        loader: Loader,
        inputs: Callable[[Tensor], Tensor],
        resident: Resident | None = None,
    ) -> None:
        assert spec.probe.curvature is not None
        self.spec, self.pair, self.sharpenings, count = spec, pair, sharpenings, spec.probe.curvature.images
        chosen = np.arange(count)
        if isinstance(data, Prepared):
            among = np.arange(len(data.train.labels)) if subset is None else subset
            chosen = nested_subset(data.train.labels[among], count, spec.seeds.data)
            loader = ResidentLoader(
                data.train, batch_size=loader.batch_size, seed=0, device=loader.device, subset=among[chosen],
                resident=resident,
            )  # fmt: skip
        batches = itertools.islice(loader.sequential(), math.ceil(count / loader.batch_size))
        x = torch.cat([inputs(batch.images) for batch in batches])[:count]
        y = training_labels(spec, data, subset)[chosen].to(x.device) if spec.learns_labels else torch.zeros(count)
        parts = math.ceil(count / loader.batch_size)
        self.batches = list(zip(torch.tensor_split(x, parts), torch.tensor_split(y, parts), strict=True))
        self.own = None if spec.objective.plugin is None else load_objective(spec.objective)

    def parts(self, step: int) -> list[Callable[[], Tensor]]:
        """Functions whose sum is the mean loss over the images, at the temperatures of optimiser step ``step``."""
        total = sum(len(x) for x, _ in self.batches)
        return [functools.partial(self._part, x, y, len(x) / total, step) for x, y in self.batches]

    def _part(self, x: Tensor, y: Tensor, share: float, step: int) -> Tensor:
        logits = _without_trace(self.pair.student, x)
        if self.spec.learns_labels:
            return functional.cross_entropy(logits, y) * share
        with torch.no_grad():
            targets = self.sharpenings["teacher"].unmoved(_without_trace(self.pair.teacher, x), step)
        logits = self.sharpenings["student"].unmoved(logits, step)
        if self.own is not None:
            return self.own(logits, targets) * share
        if self.spec.objective.name == "mse":
            return functional.mse_loss(logits, targets) * share
        # KL differs by the teacher's entropy, which has no derivative.
        return functional.cross_entropy(logits, targets.softmax(dim=1)) * share


def _without_trace(network: Network, x: Tensor) -> Tensor:
    """Logits [B, m]; buffers, the running statistics, stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    logits: Tensor = functional_call(network, buffers, (x,))
    return logits

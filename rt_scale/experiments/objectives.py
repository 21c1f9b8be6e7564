"""What a run minimises, put together from its spec: views, teacher targets, distance or labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rt_scale.data.augment.draws import augment_generator
from rt_scale.data.augment.views import augmented_inputs
from rt_scale.data.datasets.base import DataInfo
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Loader, Share
from rt_scale.data.prepared import Prepared
from rt_scale.data.subsets import noisy_labels
from rt_scale.experiments.check import constant_targets
from rt_scale.experiments.context import Context
from rt_scale.losses.distances import Pair, view_pairs
from rt_scale.models.networks import Network
from rt_scale.probes.features import ToInputs
from rt_scale.spec.run import RunSpec
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Distillation, Supervision, Targets, Views
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.precision import arithmetic, parameter_dtype
from rt_scale.training.teacher import Sharpening


def clean_inputs(spec: RunSpec, info: DataInfo, channels_last: bool) -> functools.partial[Tensor]:
    """From images that are not augmented to network inputs [B, C, H, W]."""
    return functools.partial(
        to_inputs,
        mean=info.mean,
        std=info.std,
        size=spec.data.size,
        dtype=parameter_dtype(spec.precision),
        channels_last=channels_last,
    )


def build_views(
    spec: RunSpec,
    info: DataInfo,
    channels_last: bool,
    steps_per_epoch: int,
    share: Callable[[int], Share] | None = None,
) -> Views:
    """From a batch's images and an optimiser step to views; those of a step are equal wherever a run is resumed.

    Args:
        spec: its ``augment``, ``data``, ``precision`` and ``seeds.data`` are read.
        info: of the images.
        channels_last: memory format of the views.
        steps_per_epoch: optimiser steps an epoch.
        share: from the number of a batch in its epoch to the share that the images are; None: they are all of it.
    """
    clean = clean_inputs(spec, info, channels_last)
    if spec.augment.kind == "none":
        return lambda images, step: (clean(images),)
    augmented = functools.partial(
        augmented_inputs,
        spec=spec.augment,
        mean=info.mean,
        std=info.std,
        size=spec.data.size,
        dtype=parameter_dtype(spec.precision),
        channels_last=channels_last,
    )

    def views(images: Tensor, step: int) -> Sequence[Tensor]:
        epoch, batch = divmod(step, steps_per_epoch)
        generator = augment_generator(spec.seeds.data, epoch, batch)
        return augmented(images, generator=generator, share=share and share(batch))

    return views


def share_of(loader: Loader) -> Callable[[int], Share] | None:
    """From the number of a batch to the share of it that ``loader`` gives; None where it gives whole batches."""
    return None if loader.world == 1 else loader.share


def build_sharpenings(spec: RunSpec, steps: int, steps_per_epoch: int, group: Group = ALONE) -> dict[str, Sharpening]:
    """What is done to the logits of teacher and student, whose centres are those of all ranks of ``group``."""
    return {
        role: Sharpening(part.temperature, part.center, steps=steps, steps_per_epoch=steps_per_epoch, group=group)
        for role, part in (("teacher", spec.teacher), ("student", spec.student))
    }


def build_distillation(
    spec: RunSpec,
    info: DataInfo,
    teacher: Network,
    loader: Loader,
    context: Context,
    sharpenings: dict[str, Sharpening],
) -> Distillation:
    """The objective of kind distill.

    Args:
        spec: the run.
        info: of the data set that it distils on.
        teacher: in the mode that it is to have.
        loader: of its training images, from which a constant teacher's features are computed where
            ``context`` says so.
        context: of the run.
        sharpenings: of both networks' logits; they change along.
    """
    layout = context.execution.channels_last
    targets = _targets(spec, clean_inputs(spec, info, layout), teacher, loader, context)
    seen = build_views(spec, info, layout, loader.steps, share_of(loader))
    return assemble(spec, targets, seen, sharpenings)


def assemble(spec: RunSpec, targets: Targets, seen: Views, sharpenings: dict[str, Sharpening]) -> Distillation:
    """The objective of kind distill from its parts: the teacher's logits, what both see, what is done to logits."""
    return Distillation(
        targets,
        seen,
        spec.precision,
        name=spec.objective.name,
        pairs=compared_views(spec),
        sharpenings=sharpenings,
    )


def compared_views(spec: RunSpec) -> tuple[Pair, ...]:
    """The (teacher, student) views that the objective compares."""
    views = spec.augment.global_views, spec.augment.global_views + spec.augment.local_views
    several = spec.augment.kind == "multicrop"
    return view_pairs(spec.objective.pairing, *(views if several else (1, 1)))


def _targets(spec: RunSpec, inputs: ToInputs, teacher: Network, loader: Loader, context: Context) -> Targets:
    if not (constant_targets(spec) and context.execution.cache_teacher):
        learn = spec.teacher.statistics == "data"
        return ComputedTargets(teacher, frozen=spec.teacher.update == "none", learn_statistics=learn)
    context.observer.stage("embedding the teacher's targets")
    with arithmetic(spec.precision, context.execution.device):
        return CachedTargets(
            teacher, loader.sequential(), loader.samples, inputs, group=context.group, heed=context.heed
        )


def build_supervision(
    spec: RunSpec, info: DataInfo, labels: np.ndarray, loader: Loader, context: Context
) -> Supervision:
    """The objective of kind supervise.

    Args:
        spec: the run.
        info: of its data set.
        labels: int64 [N] to train with, by position among the loader's images, see :func:`training_labels`.
        loader: of those images.
        context: of the run.
    """
    execution = context.execution
    views = build_views(spec, info, execution.channels_last, loader.steps, share_of(loader))
    return Supervision(torch.from_numpy(labels).to(execution.device), views, spec.precision)


def training_labels(spec: RunSpec, data: Prepared, subset: np.ndarray | None) -> np.ndarray:
    """Labels to train with, int64 [n]: noise first, so that nested subsets agree on it.

    Args:
        spec: the run.
        data: the data set that it is trained on.
        subset: int64 [n] positions that are trained on; None: all.
    """
    noisy = noisy_labels(data.train.labels, spec.objective.label_noise, len(data.info.classes), spec.seeds.data)
    return noisy if subset is None else noisy[subset]

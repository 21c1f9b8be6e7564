"""The objective of a run, built from its spec: views, teacher targets, distance or labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rt_scale.data.augment.draws import augment_generator
from rt_scale.data.augment.views import augmented_inputs
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Loader
from rt_scale.data.meta import DataInfo
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.data.subsets import noisy_labels
from rt_scale.experiments.check import constant_targets
from rt_scale.experiments.context import Context
from rt_scale.losses.distances import view_pairs
from rt_scale.losses.own import load_objective
from rt_scale.models.networks import Network
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
    targets: Callable[[], Targets],
    sharpenings: dict[str, Sharpening],
    device: torch.device,
) -> Distillation | Supervision:
    """The objective of a run: labels, or its teacher.

    Args:
        subset: int64 [n] positions of the training images in ``data``; None: all.
        targets: called only by objectives that need a teacher.
        sharpenings: of both networks' logits; their centres are updated in place.
        device: of the labels.
    """
    if not spec.learns_labels:
        several = spec.augment.kind == "multicrop"
        seen = (spec.augment.global_views, spec.augment.global_views + spec.augment.local_views)
        pairs = view_pairs(spec.objective.pairing, *(seen if several else (1, 1)))
        own = None if spec.objective.plugin is None else load_objective(spec.objective)
        return Distillation(
            targets(), views, spec.precision,
            name=spec.objective.name, pairs=pairs, sharpenings=sharpenings, own=own,
        )  # fmt: skip
    assert isinstance(data, Prepared)  # check refuses drawn images
    # Noise before the subset, so that nested subsets have the same labels.
    labels = noisy_labels(data.train.labels, spec.objective.label_noise, len(data.info.classes), spec.seeds.data)
    labels = labels if subset is None else labels[subset]
    return Supervision(torch.from_numpy(labels).to(device), views, spec.precision)


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

"""Checks of a training against its data sets, before any work starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from rt_scale.data.meta import DataInfo
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.spec.document import schedules
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.store.results import ImageRecord


def image_bytes(spec: TrainingSpec, data: Prepared | NoiseSet) -> int:
    """Bytes of the training images that ``spec`` uses; 0 for noise."""
    if isinstance(data, NoiseSet):
        return 0
    return training_samples(spec, data) * data.info.channels * data.info.size**2


def training_samples(spec: TrainingSpec, data: Prepared | NoiseSet) -> int:
    """Number of training images that ``spec`` uses."""
    return spec.data.samples or (data.info.train if isinstance(data, NoiseSet) else len(data.train.labels))


def probed_size(spec: TrainingSpec, main: DataInfo | ImageRecord, other: DataInfo | ImageRecord) -> int:
    """Side in pixels of the images of ``other``, a set of ``probe.also``, when they are probed."""
    return other.size if spec.probe.also_size == "own" else spec.data.size or main.size


def constant_targets(spec: TrainingSpec) -> bool:
    """Whether the teacher's logits of an image are the same at every step, so that they can be cached."""
    frozen = not spec.teacher.moves and spec.teacher.mode == "eval"
    return frozen and spec.augment.kind == "none" and not spec.learns_labels


def cache_bytes(spec: TrainingSpec, data: Prepared | NoiseSet) -> int:
    """Bytes of a constant teacher's bottleneck features; 0 if they are not constant."""
    if not constant_targets(spec):
        return 0
    from rt_scale.training.precision import parameter_dtype

    features = training_samples(spec, data) * spec.projector.bottleneck * (spec.teacher.count or 1)
    return features * parameter_dtype(spec.precision).itemsize


def fits(spec: TrainingSpec, data: Prepared | NoiseSet) -> None:
    """Raise InputError for a spec that the data set does not fit."""
    info = data.info
    encoder, size = spec.encoder, spec.data.size or info.size
    if spec.plugins:
        _fits_plugins(spec, info.channels, size, _view_sides(spec).values())
    if encoder.plugin is None:
        fits = parse_encoder(encoder.name).check_image
        for width in {encoder.width, spec.encoder_of("teacher").width}:
            fits(channels=info.channels, size=size, norm=encoder.norm, width=width)
        _fits_views(spec, info.channels, size)
    samples = training_samples(spec, data)
    _fits_batch_norms(spec, samples, size)
    _fits_schedules(spec, samples)
    _fits_stop(spec, samples)
    _fits_curvature(spec, data)
    _fits_layers(spec, data)
    if isinstance(data, Prepared):
        _fits_samples(spec, data)
        _fits_labels(spec, data)


def _fits_batch_norms(spec: TrainingSpec, samples: int, size: int) -> None:
    """Refuse steps in which a batch norm in training mode would have one value a channel, without a variance."""
    images = samples % spec.train.batch_size or spec.train.batch_size
    if images > 1:
        return
    whole = min(samples, spec.train.batch_size)
    step = f"a step of 1 image ({samples} training images in batches of {whole})"
    advice = "Choose another train.batch_size or data.samples"
    for views in _normalised_together(spec, size):
        if spec.projector.batch_norm and sum(views.values()) == 1:
            raise InputError(
                f"projector.batch_norm needs at least 2 images a step, but there is {step}. {advice}, or leave "
                "projector.batch_norm at false."
            )
        if spec.encoder.plugin is not None:
            continue
        sides = {side: parse_encoder(spec.encoder.name).last_map(side, size) for side in views}
        if spec.encoder.norm == "batch" and (single := [side for side in views if views[side] * sides[side] ** 2 == 1]):
            raise InputError(
                f"encoder.norm batch needs at least 2 values a channel at every step, but the last feature map of "
                f"encoder '{spec.encoder.name}' is 1 x 1 for images of {single[0]} x {single[0]} pixels, and there is "
                f"{step}. {advice}, larger images (data.size), or another encoder.norm, such as none."
            )


def _normalised_together(spec: TrainingSpec, size: int) -> list[dict[int, int]]:
    """For each network in training mode: side of an image's views -> number of views normalised together."""
    augment = spec.augment
    if augment.kind != "multicrop":
        return [{size: 1}]
    teacher = {augment.global_size: augment.global_views}
    student = dict(teacher)
    if augment.local_views:
        student[augment.local_size] = student.get(augment.local_size, 0) + augment.local_views
    teacher_normalises = spec.teacher.mode == "train" or spec.teacher.statistics == "data"
    return [student, teacher] if teacher_normalises else [student]


def _fits_schedules(spec: TrainingSpec, samples: int) -> None:
    """Refuse schedules longer than the run: it would end in a warm-up, or before a piece begins."""
    epochs, per_epoch = spec.train.epochs, math.ceil(samples / spec.train.batch_size)
    total = epochs * per_epoch
    for name, schedule in schedules(spec):
        if (needed := schedule.least_steps(total, per_epoch)) > total + 1e-6:  # shares of a run add up to rounding
            raise InputError(
                f"{name} is {schedule}, of which {needed / per_epoch:g} epochs ({needed:,.0f} steps) must fit into the "
                f"run: it is warming up, or waiting for its next piece, until then. The run has "
                f"{counted(epochs, 'epoch')} ({counted(total, 'step')}). Shorten the schedule, e.g. with a length of "
                "10%, or raise train.epochs."
            )


def _fits_stop(spec: TrainingSpec, samples: int) -> None:
    """Refuse a stop, or a start from a later step, at or beyond the end: known only with the number of images."""
    per_epoch, train = math.ceil(samples / spec.train.batch_size), spec.train
    total = train.length(per_epoch)
    if train.stop is not None and train.end(per_epoch) >= total:
        raise InputError(
            f"train.stop is {train.stop}, but training ends after {counted(total, 'step')} "
            f"({counted(train.epochs, 'epoch')} of {per_epoch}). Stop before, or leave train.stop out."
        )
    first, end = spec.first_step(per_epoch), train.end(per_epoch)
    if first >= max(1, end):
        field = "student.start_from takes a state" if spec.pruned is None else "prune.rewind is"
        raise InputError(
            f"{field} after {counted(first, 'step')}, but this run ends after {counted(end, 'step')}: nothing is left "
            "to train. Take an earlier moment."
        )


def _fits_curvature(spec: TrainingSpec, data: Prepared | NoiseSet) -> None:
    if (asked := spec.probe.curvature) is None:
        return
    least = len(data.info.classes) if isinstance(data, Prepared) and data.info.labelled else 1
    samples = training_samples(spec, data)
    if not least <= asked.images <= samples:
        raise InputError(
            f"probe.curvature.images is {asked.images}, but it takes one image a class, so at least {least}, and there "
            f"are {samples:,} training images: give a number from {least} to {samples}."
        )


def _fits_layers(spec: TrainingSpec, data: Prepared | NoiseSet) -> None:
    if (asked := spec.probe.layers) is None or not isinstance(data, Prepared) or not data.info.labelled:
        return
    least, there = len(data.info.classes), len(data.test.labels)
    if not least <= asked.images <= there:
        raise InputError(
            f"probe.layers.images is {asked.images}, but it takes one image a class, so at least {least}, and "
            f"'{data.info.name}' has {there:,} test images: give a number from {least} to {there}."
        )


def _fits_samples(spec: TrainingSpec, data: Prepared) -> None:
    info, there, samples = data.info, len(data.train.labels), training_samples(spec, data)
    least, kinds = (len(info.classes), f"of {len(info.classes)} classes") if info.labelled else (1, "without labels")
    if not least <= samples <= there:
        raise InputError(
            f"data.samples is {samples}, but '{info.name}' has {there:,} training images {kinds}; "
            f"give a number from {least} to {there}, or null for all."
        )


def _fits_labels(spec: TrainingSpec, data: Prepared) -> None:
    """Refuse what needs labels, or more of them, than the data set has."""
    info, samples = data.info, training_samples(spec, data)
    if not info.labelled:
        described = spec.probe.statistics or spec.probe.layers is not None
        if not spec.probe.also or described or spec.learns_labels:
            raise InputError(
                f"The training images of '{info.name}' have no labels: a student can be distilled on them and probed "
                "on others. Name those in probe.also, leave kind at distill, and leave out probe.statistics and "
                "probe.layers."
            )
        return
    if spec.probe.own and spec.probe.knn > samples:
        raise InputError(
            f"probe.knn is {spec.probe.knn}, but only {samples} training images are there to be neighbours; "
            f"give at most {samples}."
        )
    if spec.learns_labels and spec.projector.out_dim != len(info.classes):
        raise InputError(
            f"kind supervise needs one output a class: projector.out_dim is {spec.projector.out_dim:,}, but "
            f"'{info.name}' has {len(info.classes)} classes; set projector.out_dim to {len(info.classes)}."
        )


def _view_sides(spec: TrainingSpec) -> dict[str, int]:
    """Field of ``augment`` -> side in pixels of the views; empty if images are not resized."""
    views = spec.augment
    if views.kind != "multicrop":
        return {}
    return {"global_size": views.global_size} | ({"local_size": views.local_size} if views.local_views else {})


def _fits_plugins(spec: TrainingSpec, channels: int, size: int, sides: Iterable[int]) -> None:
    from rt_scale.experiments.own import check_plugins  # imports what a user wrote, so nothing that only reads does

    check_plugins(spec, channels, size, tuple(sides))


def _fits_views(spec: TrainingSpec, channels: int, size: int) -> None:
    """Refuse views of a size that the encoder does not take."""
    encoder = spec.encoder
    description = parse_encoder(encoder.name)
    fits = functools.partial(description.check_image, channels=channels, norm=encoder.norm, width=encoder.width)
    for name, side in _view_sides(spec).items():
        if description.design.one_size and side != size:
            raise InputError(
                f"augment.{name} is {side}, but encoder '{encoder.name}' is built for images of {size} x {size} pixels "
                f"and takes no others: {description.design.one_size}. Set augment.{name} to {size}."
            )
        try:
            fits(size=side, built=size, setting=f"augment.{name}")
        except InputError as error:
            raise InputError(f"augment.{name} is {side}: {error}") from None


def fits_probing(spec: TrainingSpec, main: Prepared | NoiseSet, other: Prepared) -> None:
    """Raise InputError for a data set of ``probe.also`` that an encoder made for ``main`` cannot be probed on."""
    name, channels, samples = other.info.name, other.info.channels, len(other.train.labels)
    if not other.info.labelled:
        raise InputError(f"probe.also names '{name}', whose images have no labels to probe with; leave it out.")
    if channels != main.info.channels:
        raise InputError(
            f"probe.also names '{name}', whose images have {channels} channel{'s' if channels > 1 else ''}; the "
            f"encoder is distilled on '{main.info.name}' and takes {main.info.channels}. Leave '{name}' out, or "
            f"distil on a data set with as many channels."
        )
    _fits_size(spec, main, other)
    if spec.probe.knn > samples:
        raise InputError(
            f"probe.knn is {spec.probe.knn}, but '{name}' in probe.also has only {samples} training images to be "
            f"neighbours; give at most {samples}, or leave '{name}' out."
        )


def _fits_size(spec: TrainingSpec, main: Prepared | NoiseSet, other: Prepared) -> None:
    """Refuse images of ``other`` at a size that an encoder made for ``main`` does not take."""
    encoder, size, built = spec.encoder, probed_size(spec, main.info, other.info), spec.data.size or main.info.size
    if size == built:
        return
    try:
        if encoder.plugin is not None:
            _fits_plugins(spec, other.info.channels, built, [size])
            return
        description = parse_encoder(encoder.name)
        description.check_image(
            channels=other.info.channels, size=size, norm=encoder.norm, width=encoder.width, built=built
        )
        reason = description.design.one_size
    except InputError as error:
        reason = str(error).partition(". ")[0]
    if reason:
        raise InputError(
            f"probe.also_size is own, but encoder '{encoder.name}' for {built} x {built} pixels cannot take images of "
            f"'{other.info.name}', which have {size} x {size}: {reason}. Set probe.also_size to encoder, which has "
            f"them resized, or leave '{other.info.name}' out of probe.also."
        )


def fits_state(spec: TrainingSpec, main: Prepared | NoiseSet, before: TrainingSpec, other: Prepared | NoiseSet) -> None:
    """Raise InputError if ``spec`` cannot go on from the state of ``before``, whose epochs are of another length."""
    samples, samples_before = training_samples(spec, main), training_samples(before, other)
    if samples != samples_before:
        raise InputError(
            f"student.start_from takes the state of a run on {samples_before:,} training images, and this run has "
            f"{samples:,}: epochs of other lengths cannot go on from each other. Make data.samples equal."
        )


def fits_start(
    spec: TrainingSpec,
    main: Prepared | NoiseSet,
    before: TrainingSpec,
    other: Prepared | NoiseSet,
    name: str = "start_from.run",
) -> None:
    """Raise InputError if weights of the run ``before``, on images of ``other``, do not fit an encoder for ``main``.

    ``name`` is the field that holds the run.
    """
    if main.info.channels != other.info.channels:
        raise InputError(
            f"{name} is on '{other.info.name}', whose images have another number of channels "
            f"({other.info.channels}) than those of '{main.info.name}' ({main.info.channels}): its weights do not fit."
        )
    size, size_before = spec.data.size or main.info.size, before.data.size or other.info.size
    reason = "" if spec.encoder.plugin else parse_encoder(spec.encoder.name).design.one_size
    if reason and size != size_before:
        advice = "Leave data.size out" if size_before == main.info.size else f"Set data.size to {size_before}"
        raise InputError(
            f"{name} is on images of {size_before} x {size_before} pixels, this run on {size} x {size}, and "
            f"encoder '{spec.encoder.name}' takes one size alone: {reason}. {advice}."
        )

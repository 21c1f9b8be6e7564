"""Augmentation of a batch on its device: none, padded crop and flip, or multi-crop views.

Views are a pure function of the images, the spec and the generator's state, which the caller makes from
seed, epoch and step (``augment_generator``). The order is that of DINO: crop, flip, jitter, greyscale,
blur, solarise. All is computed on floats in [0, 1], without the rounding to 8 bits between the steps
that PIL does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rt_scale.data.augment.colour import blur_taps, blurred, greyscaled, jittered, solarised
from rt_scale.data.augment.crops import padded_crops, resized_crops
from rt_scale.data.augment.draws import MultiCropDraws, ViewDraws, draw_crop_flip, draw_multicrop, on_some
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Share
from rt_scale.spec.data import AugmentSpec
from rt_scale.spec.errors import InputError, unknown_name


def augmented_inputs(
    images: torch.Tensor,
    spec: AugmentSpec,
    generator: torch.Generator,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool = True,
    share: Share | None = None,
) -> tuple[torch.Tensor, ...]:
    """The views of a batch, normalised as by ``to_inputs``.

    Args:
        images: uint8 [B, H, W, C], on any device.
        spec: what is done.
        generator: a host generator, advanced by what is drawn; untouched by kind none.
        mean, std: C values each, of pixels in [0, 1].
        size: side to which images are resized without augmentation and after crop_flip; None: as they
            are. Views of multicrop have the sides that ``spec`` says.
        dtype: of the views.
        channels_last: memory format of the views.
        share: where the images lie in a larger batch, whose views they get; None: they are all of it.

    Returns:
        One tensor [B, C, S, S] a view: one for none and crop_flip; for multicrop the
        global views first, then the local ones.

    Raises:
        InputError: another kind; multicrop of images with neither 1 nor 3 channels.
    """
    if spec.kind == "multicrop":
        working = torch.float64 if dtype == torch.float64 else torch.float32
        batch, start = share or Share(len(images), 0)
        draws = draw_multicrop(generator, spec, batch, *images.shape[1:3]).of_images(batch, start, len(images))
        views = multicrop(images, spec, draws, working)
        pixels = (255 * view.permute(0, 2, 3, 1) for view in views)
        return tuple(to_inputs(each, mean, std, None, dtype, channels_last=channels_last) for each in pixels)
    if spec.kind == "crop_flip":
        batch, start = share or Share(len(images), 0)
        draws_here = draw_crop_flip(generator, spec, batch).of_images(start, len(images))
        images = padded_crops(images, draws_here, spec.padding)
    elif spec.kind != "none":
        raise unknown_name("augmentation", spec.kind, ("none", "crop_flip", "multicrop"))
    return (to_inputs(images, mean, std, size, dtype, channels_last=channels_last),)


def multicrop(
    images: torch.Tensor, spec: AugmentSpec, draws: MultiCropDraws, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """The global, then the local views of a batch, with the parameters that were drawn.

    Args:
        images: uint8 [B, H, W, C], C = 1 or 3, on any device.
        spec: sizes, interpolation and thresholds.
        draws: from ``draw_multicrop`` for this spec and these images.
        dtype: float32 or float64, in which everything is computed.

    Returns:
        One float tensor [B, C, S, S] a view, in [0, 1].

    Raises:
        InputError: images with neither 1 nor 3 channels.
    """
    if images.shape[-1] not in (1, 3):
        raise InputError(f"Multi-crop views need images of 1 or 3 channels; these have {images.shape[-1]}.")
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.permute(0, 3, 1, 2).to(dtype) / 255
        views = _views(pixels, spec, draws.global_views, spec.global_size).chunk(spec.global_views)
        if draws.local_views is not None:
            views += _views(pixels, spec, draws.local_views, spec.local_size).chunk(spec.local_views)
    return views


def _views(pixels: torch.Tensor, spec: AugmentSpec, draws: ViewDraws, size: int) -> torch.Tensor:
    """All views of one size, [V * B, C, size, size]."""
    taps = blur_taps(spec.blur.sigma[1], size)
    views = resized_crops(pixels, draws.boxes, draws.flip, size, spec.interpolation)
    views = on_some(views, draws.jitter, lambda some, rows: jittered(some, draws.select(rows)))
    views = on_some(views, draws.grayscale, lambda some, _: greyscaled(some))
    views = on_some(views, draws.blur, lambda some, rows: blurred(some, draws.sigma[rows], taps))
    return on_some(views, draws.solarize, lambda some, _: solarised(some, spec.solarize_threshold))

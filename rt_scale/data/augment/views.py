"""Augmentation of a batch on its device: none, padded crop and flip, or multi-crop views.

The order is that of DINO: crop, flip, jitter, greyscale, blur, solarise, on floats in [0, 1], without PIL's
rounding to 8 bits between the steps. The jitter is torchvision's (``adjust_*`` of transforms.v2.functional).
Saturation, hue and greyscale do not change images of one channel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from rt_scale.data.augment.draws import (
    CropFlipDraws,
    MultiCropDraws,
    ViewDraws,
    draw_crop_flip,
    draw_multicrop,
    moved,
    on_some,
)
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Share
from rt_scale.spec.data import AugmentSpec
from rt_scale.spec.errors import InputError, unknown_name

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


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
        generator: on the host; not used by kind none.
        mean, std, dtype, channels_last: as in ``to_inputs``.
        size: side of the views of kinds none and crop_flip; None: not resized. Multicrop's sides are in ``spec``.
        share: position of the images in a larger batch, as in a distributed run; None: they are the batch.

    Returns:
        One tensor [B, C, S, S] a view: one for none and crop_flip; for multicrop the global, then the local views.
    """
    batch, start = share or Share(len(images), 0)
    if spec.kind == "multicrop":
        working = torch.float64 if dtype == torch.float64 else torch.float32
        draws = draw_multicrop(generator, spec, batch, *images.shape[1:3]).of_images(batch, start, len(images))
        views = multicrop(images, spec, draws, working)
        pixels = (255 * view.permute(0, 2, 3, 1) for view in views)
        return tuple(to_inputs(each, mean, std, None, dtype, channels_last=channels_last) for each in pixels)
    if spec.kind == "crop_flip":
        shift = draw_crop_flip(generator, spec, batch).of_images(start, len(images))
        images = padded_crops(images, shift, spec.padding)
    elif spec.kind != "none":
        raise unknown_name("augmentation", spec.kind, ("none", "crop_flip", "multicrop"))
    return (to_inputs(images, mean, std, size, dtype, channels_last=channels_last),)


def multicrop(
    images: torch.Tensor, spec: AugmentSpec, draws: MultiCropDraws, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """The global, then the local views of a batch, each [B, C, S, S] in [0, 1].

    Args:
        images: uint8 [B, H, W, C], on any device; InputError if C is neither 1 nor 3.
        draws: from ``draw_multicrop`` for this spec and these images.
        dtype: float32 or float64, of the computation and the views.
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
    from torchvision.transforms.v2.functional import solarize  # takes more than a second to import

    taps = blur_taps(spec.blur.sigma[1], size)
    views = resized_crops(pixels, draws.box, draws.flip, size, spec.interpolation)
    views = on_some(views, draws.jitter, lambda some, rows: jittered(some, draws.select(rows)))
    views = on_some(views, draws.grayscale, lambda some, _: greyscaled(some))
    views = on_some(views, draws.blur, lambda some, rows: blurred(some, draws.sigma[rows], taps))
    return on_some(views, draws.solarize, lambda some, _: solarize(some, spec.solarize_threshold))


def resized_crops(
    pixels: torch.Tensor, box: torch.Tensor, flip: torch.Tensor, size: int, interpolation: str
) -> torch.Tensor:
    """Every view's box, resized to size x size with antialiasing, mirrored where ``flip`` is set.

    Resizing is linear and separable, so two batched products, rows @ image @ columns, crop, resize and mirror all
    views. The matrices hold the weights of torch's antialiased ``interpolate`` on the box. Bicubic overshoot is
    clamped to [0, 1], as in PIL.

    Args:
        pixels: float [B, C, H, W] in [0, 1].
        box: top, left, height and width of V * B views, int64 [4, V * B], the first view of every image first.
        flip: bool [V * B], on the host.
        size: side of the views in pixels.
        interpolation: bicubic or bilinear.

    Returns:
        [V * B, C, size, size] of the dtype of ``pixels``, contiguous.
    """
    batch, channels, height, width = pixels.shape
    top, left, tall, wide, mirrored = moved([*box, flip], pixels.device, pixels.dtype)
    rows = _weights(top, tall, torch.zeros_like(mirrored), height, size, interpolation)
    columns = _weights(left, wide, mirrored, width, size, interpolation)
    # [B, V * S, H] @ [B, H, C * W]: each image is read once for all of its views.
    rows = rows.view(-1, batch, size, height).transpose(0, 1).reshape(batch, -1, height)
    image = pixels.transpose(1, 2).reshape(batch, height, channels * width)
    strips = torch.bmm(rows, image).view(batch, -1, size * channels, width).transpose(0, 1)
    views = torch.bmm(strips.reshape(len(top), size * channels, width), columns.mT)
    return views.view(-1, size, channels, size).transpose(1, 2).clamp(0, 1).contiguous()


def padded_crops(images: torch.Tensor, draws: CropFlipDraws, padding: int) -> torch.Tensor:
    """Crops, uint8 [B, H, W, C], from ``images`` of the same shape with ``padding`` black pixels on every side."""
    height, width = images.shape[1:3]
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    # Computed on the host and moved in one copy: on a GPU launching these small operations would take longer.
    (places,) = moved([draws.places(height, width)], images.device, torch.long)
    image, rows, columns = places.split([1, height, width], dim=1)
    return padded[image[:, :, None], rows[:, :, None], columns[:, None, :]]


def _weights(
    start: torch.Tensor, length: torch.Tensor, mirrored: torch.Tensor, side: int, size: int, interpolation: str
) -> torch.Tensor:
    """Weights [N, size, side] of the source pixels in each output pixel of one dimension; the inputs are float [N]."""
    kernel = _KERNELS[interpolation]
    out = torch.arange(size, device=start.device, dtype=start.dtype)
    out = torch.where(mirrored[:, None] > 0, size - 1 - out, out)
    scale = (length / size)[:, None, None]
    inside = torch.arange(side, device=start.device, dtype=start.dtype) - start[:, None]
    # Antialiasing: if the image is reduced, the kernel is widened by the same factor.
    distance = (inside[:, None, :] + 0.5 - scale * (out[:, :, None] + 0.5)).abs() / scale.clamp(min=1)
    within = ((inside >= 0) & (inside < length[:, None]))[:, None, :]
    weights = kernel(distance) * within
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution with a = -0.5, as in PIL and in torch's antialiased interpolation."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_KERNELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bilinear": lambda distance: (1 - distance).clamp(min=0),
    "bicubic": _cubic,
}


def jittered(pixels: torch.Tensor, draws: ViewDraws) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of every view, in its own order (``draws.order``).

    The first three are blends with black, with the view's mean grey and with each pixel's grey. So three blends serve
    every order; the expensive change of hue comes before, between or after them for the views with that order.

    Args:
        pixels: float [N, C, S, S] in [0, 1], C = 1 or 3; may be overwritten.
        draws: of N views; ``draws.jitter`` is ignored.
    """
    hue_at = (draws.order == HUE).int().argmax(dim=1)
    blends = draws.order[draws.order != HUE].view(-1, 3)
    factors = torch.stack([draws.brightness, draws.contrast, draws.saturation], dim=1).gather(1, blends)
    rest = 1 - factors
    parts = moved([factors, rest * (blends == CONTRAST), rest * (blends == SATURATION)], pixels.device, pixels.dtype)
    for position in range(4):
        if pixels.shape[1] == 3:
            pixels = on_some(pixels, hue_at == position, lambda some, rows: _turned(some, draws.hue[rows]))
        if position < 3:
            factor, of_mean, of_grey = parts[:, :, position, None, None, None].unbind()
            pixels = _blended(pixels, factor, of_mean, of_grey)
    return pixels


def greyscaled(pixels: torch.Tensor) -> torch.Tensor:
    """Views, float [N, C, S, S] in [0, 1] with C of 1 or 3, without colour: C equal channels."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    grey: torch.Tensor = rgb_to_grayscale(pixels, num_output_channels=pixels.shape[1])
    return grey.contiguous()  # torchvision repeats one channel without copying it


def _blended(pixels: torch.Tensor, factor: torch.Tensor, of_mean: torch.Tensor, of_grey: torch.Tensor) -> torch.Tensor:
    """factor * pixels + of_mean * mean grey + of_grey * grey, clamped to [0, 1]; the three are [N, 1, 1, 1]."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    grey = rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels
    base = torch.addcmul(grey.mean(dim=(1, 2, 3), keepdim=True) * of_mean, grey, of_grey)
    return torch.addcmul(base, pixels, factor).clamp_(0, 1)


def _turned(pixels: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """The hue shifted by ``hue`` (float64 [N] on the host, in shares of the circle) at constant value and saturation.

    With value v = max, range c = max - min and hue h in sixths of the circle, a channel is
    v - c * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue.
    """
    turn = moved([hue * 6], pixels.device, pixels.dtype)[0, :, None, None]
    low, high = torch.aminmax(pixels, dim=1)
    span = high - low
    divisor = torch.where(span > 0, span, 1.0)  # grey pixels have no hue
    red, green, blue = pixels.unbind(dim=1)
    angle = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    angle += turn
    channels = []
    for offset in (5, 3, 1):
        k = torch.remainder(angle + offset, 6)
        channels.append(high - span * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def blur_taps(largest_sigma: float, size: int) -> int:
    """Length of the blur's kernel: three standard deviations to each side, limited to what reflection can fill."""
    return 2 * min(math.ceil(3 * largest_sigma), size - 1) + 1


def blurred(pixels: torch.Tensor, sigma: torch.Tensor, taps: int) -> torch.Tensor:
    """Every view blurred at its own sigma, edges reflected: torchvision's gaussian_blur.

    A blur is linear and separable, so it is rows @ view @ columns, with one banded matrix that includes the reflection.

    Args:
        pixels: float [N, C, S, S].
        sigma: float64 [N] above 0, on the host; standard deviations in pixels.
        taps: length of the kernel, odd, at most 2 S - 1.
    """
    number, channels, size, _ = pixels.shape
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernels = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)
    shifts = _reflected_shifts(size, taps, pixels.dtype, pixels.device)
    matrix = (moved([kernels], pixels.device, pixels.dtype)[0] @ shifts).view(number, size, size)
    across = torch.bmm(pixels.reshape(number, channels * size, size), matrix.mT).view_as(pixels)
    return torch.matmul(matrix[:, None], across)


@functools.lru_cache(maxsize=16)
def _reflected_shifts(size: int, taps: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """For every tap the 0/1 matrix that selects its pixels, edges reflected; [taps, size * size]."""
    with torch.inference_mode(False):
        identity = torch.eye(size, dtype=dtype, device=device)
        padded = functional.pad(identity, (taps // 2, taps // 2), mode="reflect")  # [source, position]
        return padded.unfold(1, size, 1).permute(1, 2, 0).reshape(taps, -1).contiguous()

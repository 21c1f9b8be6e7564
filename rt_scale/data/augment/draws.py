"""The random parameters of augmentation, drawn on the host; ``views`` applies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rt_scale.spec.data import AugmentSpec
from rt_scale.spec.run import stream

ATTEMPTS = 10  # at a random box, as in torchvision


@dataclass(frozen=True)
class ViewDraws:
    """Parameters of N = views * batch views, the first view of every image first; on the host.

    ``flip``, ``jitter``, ``grayscale``, ``blur`` and ``solarize`` are masks, bool [N]. Factors and standard
    deviations are drawn for every view, whatever its masks.
    """

    box: torch.Tensor
    """The part of the image that the view shows, in pixels: top, left, height and width; int64 [4, N]."""
    flip: torch.Tensor
    jitter: torch.Tensor
    brightness: torch.Tensor
    """A factor, float64 [N]; so are contrast and saturation."""
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    """A share of the colour circle, float64 [N]."""
    order: torch.Tensor
    """The order of 0 brightness, 1 contrast, 2 saturation, 3 hue; int64 [N, 4]."""
    grayscale: torch.Tensor
    blur: torch.Tensor
    sigma: torch.Tensor
    """Standard deviation of the blur in pixels of the view, float64 [N]."""
    solarize: torch.Tensor

    def select(self, rows: torch.Tensor) -> ViewDraws:
        """The views at positions ``rows``, int64."""
        chosen = {name: value[rows] for name, value in vars(self).items() if name != "box"}
        return ViewDraws(box=self.box[:, rows], **chosen)


class MultiCropDraws(NamedTuple):
    """The parameters of a batch's global views, and of its local ones if there are some."""

    global_views: ViewDraws
    local_views: ViewDraws | None

    def of_images(self, batch: int, start: int, images: int) -> MultiCropDraws:
        """The parameters of ``images`` consecutive images of the ``batch``, from position ``start``."""
        if images == batch:
            return self
        global_views, local_views = self
        return MultiCropDraws(
            global_views.select(_rows(global_views, batch, start, images)),
            local_views and local_views.select(_rows(local_views, batch, start, images)),
        )


def _rows(draws: ViewDraws, batch: int, start: int, images: int) -> torch.Tensor:
    return torch.arange(len(draws.flip)).view(-1, batch)[:, start : start + images].flatten()


@dataclass(frozen=True)
class CropFlipDraws:
    """Parameters of a padded crop and flip; on the host."""

    top: torch.Tensor
    """Row in the padded image, int64 [B] in 0..2 * padding; so is left."""
    left: torch.Tensor
    flip: torch.Tensor

    def of_images(self, start: int, images: int) -> CropFlipDraws:
        """The parameters of ``images`` consecutive images, from position ``start``."""
        end = start + images
        return CropFlipDraws(self.top[start:end], self.left[start:end], self.flip[start:end])

    def places(self, height: int, width: int) -> torch.Tensor:
        """Indices of each crop: its image, then rows and columns of the padded image; int64 [B, 1 + height + width]."""
        across, image = torch.arange(width), torch.arange(len(self.top))[:, None]
        rows = self.top[:, None] + torch.arange(height)
        columns = self.left[:, None] + torch.where(self.flip[:, None], width - 1 - across, across)
        return torch.cat([image, rows, columns], dim=1)


def augment_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The generator of a batch's views, the same after a resume."""
    return torch.Generator().manual_seed(stream("augment", seed, epoch, step))


def draw_multicrop(
    generator: torch.Generator, spec: AugmentSpec, batch: int, height: int, width: int
) -> MultiCropDraws:
    """Parameters of the global and local views of ``batch`` images of height x width pixels."""

    def views(scale: tuple[float, float], blur: list[float], solarize: list[float]) -> ViewDraws:
        box = _draw_boxes(generator, batch * len(blur), height, width, scale, spec.ratio)
        return _draw_views(generator, spec, box, blur=_repeated(blur, batch), solarize=_repeated(solarize, batch))

    later, locals_ = spec.global_views - 1, spec.local_views
    global_views = views(
        spec.global_scale, [spec.blur.first] + [spec.blur.others] * later, [0.0] + [spec.solarize] * later
    )
    local_views = views(spec.local_scale, [spec.blur.local] * locals_, [0.0] * locals_) if locals_ else None
    return MultiCropDraws(global_views, local_views)


def draw_crop_flip(generator: torch.Generator, spec: AugmentSpec, batch: int) -> CropFlipDraws:
    """Parameters of a padded crop and a flip of ``batch`` images."""
    top, left = (torch.randint(0, 2 * spec.padding + 1, (batch,), generator=generator) for _ in range(2))
    return CropFlipDraws(top, left, _uniform(generator, batch) < spec.flip)


def _draw_views(
    generator: torch.Generator, spec: AugmentSpec, box: torch.Tensor, *, blur: torch.Tensor, solarize: torch.Tensor
) -> ViewDraws:
    n, jitter = box.shape[1], spec.jitter
    return ViewDraws(
        box=box,
        flip=_uniform(generator, n) < spec.flip,
        jitter=_uniform(generator, n) < jitter.probability,
        brightness=_factor(generator, n, jitter.brightness),
        contrast=_factor(generator, n, jitter.contrast),
        saturation=_factor(generator, n, jitter.saturation),
        hue=_uniform(generator, n, -jitter.hue, jitter.hue),
        order=_uniform(generator, n, columns=4).argsort(dim=1),
        grayscale=_uniform(generator, n) < spec.grayscale,
        blur=_uniform(generator, n) < blur,
        sigma=_uniform(generator, n, *spec.blur.sigma),
        solarize=_uniform(generator, n) < solarize,
    )


def _draw_boxes(
    generator: torch.Generator,
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> torch.Tensor:
    """As torchvision's RandomResizedCrop: the first of ten random boxes that fits, else the largest central one.

    Returns top, left, height and width, int64 [4, n].
    """
    area = height * width * _uniform(generator, n, *scale, columns=ATTEMPTS)
    aspect = _uniform(generator, n, math.log(ratio[0]), math.log(ratio[1]), columns=ATTEMPTS).exp()
    widths, heights = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    central_height, central_width = _central(height, width, ratio)
    some = fits.any(dim=1)
    box_height = torch.where(some, heights.gather(1, first).squeeze(1), central_height)
    box_width = torch.where(some, widths.gather(1, first).squeeze(1), central_width)
    free_rows, free_columns = height - box_height, width - box_width
    top = (_uniform(generator, n) * (free_rows + 1)).long()
    left = (_uniform(generator, n) * (free_columns + 1)).long()
    top, left = torch.where(some, top, free_rows // 2), torch.where(some, left, free_columns // 2)
    return torch.stack([top, left, box_height, box_width])


def _central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def _uniform(
    generator: torch.Generator, n: int, low: float = 0.0, high: float = 1.0, columns: int | None = None
) -> torch.Tensor:
    shape = (n,) if columns is None else (n, columns)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def _factor(generator: torch.Generator, n: int, strength: float) -> torch.Tensor:
    return _uniform(generator, n, max(0.0, 1 - strength), 1 + strength)


def _repeated(probabilities: Sequence[float], batch: int) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).repeat_interleave(batch)


def moved(values: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Several host tensors of one shape, stacked, in one copy to the device."""
    return _to_device(torch.stack([each.to(dtype) for each in values]), device)


def on_some(
    pixels: torch.Tensor, mask: torch.Tensor, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """``pixels`` [N, ...] with the views of ``mask`` changed; the other views are not computed.

    Args:
        pixels: overwritten if contiguous.
        mask: bool [N], on the host, so that the device is not waited for.
        change: called with the chosen views and their rows (int64, on the host); returns the changed views.
    """
    rows = mask.nonzero().squeeze(1)
    if len(rows) == 0:
        return pixels
    if len(rows) == len(mask):
        return change(pixels, rows)
    there = _to_device(rows, pixels.device)
    # As a matrix: on the CPU index_select and index_copy_ are faster over two dimensions.
    pixels = pixels.contiguous()
    matrix = pixels.view(len(pixels), -1)
    some = matrix.index_select(0, there).view(-1, *pixels.shape[1:])
    matrix.index_copy_(0, there, change(some, rows).reshape(len(rows), -1))
    return pixels


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

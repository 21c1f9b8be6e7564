"""Crops of a batch, each at its own place: resized (multi-crop) or padded (the supervised recipe)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from rt_scale.data.augment.draws import Boxes, CropFlipDraws, moved


def resized_crops(
    pixels: torch.Tensor, boxes: Boxes, flip: torch.Tensor, size: int, interpolation: str
) -> torch.Tensor:
    """Every view's box, resized to size x size with antialiasing, mirrored where ``flip`` is set.

    Resizing is linear and separable, so a crop is rows @ image @ columns: the weights of torch's
    antialiased ``interpolate`` on the box alone, written into matrices over the whole image. Two batched
    products thus crop, resize and mirror all views. Bicubic overshoot is cut to [0, 1], as in PIL.

    Args:
        pixels: float [B, C, H, W] in [0, 1].
        boxes: of V * B views, the first view of every image first.
        flip: bool [V * B], on the host.
        size: side of the views in pixels.
        interpolation: bicubic or bilinear.

    Returns:
        [V * B, C, size, size] of the dtype of ``pixels``, contiguous.
    """
    batch, channels, height, width = pixels.shape
    top, left, tall, wide, mirrored = moved(
        [boxes.top, boxes.left, boxes.height, boxes.width, flip], pixels.device, pixels.dtype
    )
    rows = _weights(top, tall, torch.zeros_like(mirrored), height, size, interpolation)
    columns = _weights(left, wide, mirrored, width, size, interpolation)
    # [B, V * S, H] @ [B, H, C * W]: each image is read once for all of its views.
    rows = rows.view(-1, batch, size, height).transpose(0, 1).reshape(batch, -1, height)
    image = pixels.transpose(1, 2).reshape(batch, height, channels * width)
    strips = torch.bmm(rows, image).view(batch, -1, size * channels, width).transpose(0, 1)
    views = torch.bmm(strips.reshape(len(top), size * channels, width), columns.mT)
    return views.view(-1, size, channels, size).transpose(1, 2).clamp(0, 1).contiguous()


def padded_crops(images: torch.Tensor, draws: CropFlipDraws, padding: int) -> torch.Tensor:
    """Crops of the images' own size from images with ``padding`` black pixels on every side.

    Args:
        images: uint8 [B, H, W, C].
        draws: of B images.
        padding: pixels; what ``draws`` was drawn for.

    Returns:
        uint8 [B, H, W, C]; values are copied, never computed.
    """
    height, width = images.shape[1:3]
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    # Made on the host and moved in one piece: a GPU takes longer to be told each step of it than to do it.
    (places,) = moved([draws.places(height, width)], images.device, torch.long)
    image, rows, columns = places.split([1, height, width], dim=1)
    return padded[image[:, :, None], rows[:, :, None], columns[:, None, :]]


def _weights(
    start: torch.Tensor, length: torch.Tensor, mirrored: torch.Tensor, side: int, size: int, interpolation: str
) -> torch.Tensor:
    """Weights [N, size, side] of the source pixels in each output pixel of one dimension.

    ``start``, ``length`` and ``mirrored`` (1 or 0) are float [N] on the device.
    """
    kernel = _KERNELS[interpolation]
    out = torch.arange(size, device=start.device, dtype=start.dtype)
    out = torch.where(mirrored[:, None] > 0, size - 1 - out, out)
    scale = (length / size)[:, None, None]
    inside = torch.arange(side, device=start.device, dtype=start.dtype) - start[:, None]
    # Where the image is reduced, the kernel widens with it: that is the antialiasing.
    distance = (inside[:, None, :] + 0.5 - scale * (out[:, :, None] + 0.5)).abs() / scale.clamp(min=1)
    within = ((inside >= 0) & (inside < length[:, None]))[:, None, :]
    weights = kernel(distance) * within
    return weights / weights.sum(dim=2, keepdim=True)


def _triangle(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution with a = -0.5, which torch uses where it antialiases, and PIL always."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_KERNELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}

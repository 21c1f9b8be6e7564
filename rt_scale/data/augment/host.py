"""From draws on the host to the device of the pixels, without the host waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def moved(values: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Several host tensors of one shape, stacked: one copy of twenty values costs a GPU what one of one does."""
    return _to_device(torch.stack([each.to(dtype) for each in values]), device)


def on_some(
    pixels: torch.Tensor, mask: torch.Tensor, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """``pixels`` [N, ...] in which the views of ``mask`` (bool [N] on the host) are changed, mostly in place.

    The others are not even computed: which they are is known on the host, so nothing waits.

    Args:
        pixels: overwritten where they are contiguous.
        mask: which views are changed.
        change: from some of the views and their rows (int64, on the host) to what they become.
    """
    rows = mask.nonzero().squeeze(1)
    if len(rows) == 0:
        return pixels
    if len(rows) == len(mask):
        return change(pixels, rows)
    there = _to_device(rows, pixels.device)
    # Rows of a matrix, not images: on the CPU index_select and index_copy_ are faster over two dimensions.
    pixels = pixels.contiguous()
    matrix = pixels.view(len(pixels), -1)
    some = matrix.index_select(0, there).view(-1, *pixels.shape[1:])
    matrix.index_copy_(0, there, change(some, rows).reshape(len(rows), -1))
    return pixels


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

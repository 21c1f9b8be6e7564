"""How the wide output of a run is computed: in torch, or by a kernel where one works and is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from rt_scale.models.projector import Outputs
from rt_scale.training.wide import Compare, Side, by_tiles, wide_distance

TORCH, TRITON = "torch", "triton"
ROUNDS = 5
"""Timed steps of each in turns, after one that compiles."""
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of two gradients relative to their norm, by the dtype of products."""


def comparison(name: str) -> Compare:
    """The way of that name, as :func:`choose` gives it."""
    return by_tiles if name == TORCH else _kernel()


def choose(
    device: torch.device, batch: int, outputs: int, width: int, product: torch.dtype, earlier: str | None = None
) -> tuple[str, str]:
    """The name of the way to compare wide outputs on ``device``, and why.

    The kernel is tried out on a batch: whatever goes wrong with it, a run goes on in torch.

    Args:
        device: of the run.
        batch: images a step.
        outputs: m.
        width: k.
        product: dtype that matrices are multiplied in.
        earlier: what this run was begun with, which it keeps if it can.
    """
    if device.type != "cuda" or earlier == TORCH:
        return TORCH, "this run began with it" if earlier == TORCH else "the kernel is for NVIDIA GPUs"
    try:
        kernel = _kernel()
        difference, ratio = _tried(kernel, device, (batch, outputs, width), product)
    except Exception as error:  # of a compiler, a driver or the memory: none is worth a run
        reason = " ".join(str(error).split())[:200]
        return TORCH, f"the kernel does not work here ({type(error).__name__}: {reason})"
    if not difference < AGREEMENT[product]:
        return TORCH, f"the kernel's gradients are {difference:.1e} off here"
    if earlier == TRITON:
        return TRITON, "this run began with it"
    return (TRITON if ratio > 1 else TORCH), f"the kernel is {ratio:.2f} times as fast as torch here"


def _kernel() -> Compare:
    from rt_scale.training.wide_triton import by_kernel  # Triton is not everywhere

    return by_kernel


def _tried(
    kernel: Compare, device: torch.device, shape: tuple[int, int, int], product: torch.dtype
) -> tuple[float, float]:
    """How far the kernel's gradients are off, relative to their norm, and how many times faster than torch it is."""
    batch, outputs, width = shape
    dtype = torch.promote_types(product, torch.float32)
    generator = torch.Generator(device).manual_seed(0)
    features, targets, weight, directions = (
        torch.randn(rows, width, generator=generator, device=device, dtype=dtype) / width**0.5
        for rows in (batch, batch, outputs, outputs)
    )
    features.requires_grad_()
    weight.requires_grad_()

    def gradients(compare: Compare) -> tuple[torch.Tensor, ...]:
        student, teacher = Side(Outputs(features, weight, unit=True)), Side(Outputs(targets, directions))
        loss = wide_distance("cross_entropy", student, teacher, product=product, compare=compare).loss
        return torch.autograd.grad(loss, (features, weight))

    pairs = zip(gradients(kernel), gradients(by_tiles), strict=True)
    difference = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
    rounds = [[_seconds(gradients, way, device) for way in (by_tiles, kernel)] for _ in range(ROUNDS)]
    return difference, statistics.median(torch_seconds / seconds for torch_seconds, seconds in rounds)


def _seconds(work: Callable[[Compare], object], way: Compare, device: torch.device) -> float:
    start = time.perf_counter()
    work(way)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start

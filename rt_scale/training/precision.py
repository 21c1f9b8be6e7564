"""What a spec's precision means: dtypes, autocast, and whether float32 products may use TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from rt_scale.spec.errors import InputError


def parameter_dtype(precision: str) -> torch.dtype:
    """The dtype of parameters and inputs."""
    return torch.float64 if precision == "float64" else torch.float32


def product_dtype(precision: str) -> torch.dtype:
    """The dtype that matrices are multiplied in."""
    return torch.bfloat16 if precision == "bf16" else parameter_dtype(precision)


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context that a network's forward pass runs in: autocast for bf16, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


TF32_SINCE = (8, 0)
"""Compute capability of the first GPUs with TF32 (Ampere)."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise InputError if ``device`` does not support ``precision``."""
    if precision != "tf32":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < TF32_SINCE:
        raise InputError(
            f"precision tf32 is arithmetic of NVIDIA GPUs since Ampere, and the run is to use '{device}'. Set "
            "precision to float32 here, which tf32 is a faster approximation of."
        )


def set_precision(precision: str) -> None:
    """Allow TF32 in this process for ``tf32``, and forbid it for every other precision.

    torch's default is TF32 for convolutions and float32 for matrix products: a student that starts from rounding noise
    would start from another noise in each.
    """
    # These older names also set torch's newer fp32_precision; the newer name does not set these.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, float32 matrix products do not use TF32."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed

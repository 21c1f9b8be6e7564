"""Encoders of users: any module from images [B, C, H, W] to embeddings [B, D]; torchvision's and timm's among them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.plugins import check_arguments, load, takes
from rt_scale.spec.errors import InputError, RtScaleError, cut, shown
from rt_scale.spec.networks import EncoderSpec

HEADS = ("fc", "classifier", "heads", "head")
"""Names of the classifier in torchvision's models."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's global generators, which a plugin may draw from, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        _seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_all(seed: int) -> None:
    """Seed the global generators of torch on every device, of numpy and of Python."""
    torch.manual_seed(seed)
    _seed(seed)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def build_own(spec: EncoderSpec, *, channels: int, size: int, seed: int) -> Encoder:
    """The plugin's module on the CPU in float32, with the weights that its constructor draws, all from ``seed``.

    It gets ``channels`` and ``size`` if its signature takes them. Its ``embed_dim`` is that of two images' embeddings.

    InputError: its arguments are wrong, it is no module, or two images do not become [2, D].
    """
    assert spec.plugin is not None
    reference, args = spec.plugin, dict(spec.arguments)
    # The default device, e.g. meta while work is counted, is not for a user's code.
    with torch.device("cpu"), seeded(seed):
        module = _made(reference, load(reference, spec.source), args, channels, size)
        width = embedding_width(reference, module, channels, size)
    if getattr(module, "embed_dim", width) != width:
        raise InputError(f"The encoder '{reference}' has embed_dim {module.embed_dim}, but gives {width} numbers.")
    module.embed_dim = width  # type: ignore[assignment]  # torch's annotation is of tensors and modules
    return cast("Encoder", module)


def _made(reference: str, make: Callable[..., Any], args: dict[str, Any], channels: int, size: int) -> nn.Module:
    """The module in float32, of torchvision's and timm's models without their classifier."""
    library = reference.partition(":")[0].partition(".")[0]
    stem = args.pop("stem", None) if library in ("torchvision", "timm") else None
    if stem not in (None, "small"):
        raise InputError(f"The encoder '{reference}' has stem {shown(stem)}: allowed is small, or no stem.")
    if library == "timm":
        args = {"num_classes": 0, "in_chans": channels, **args}
    given = {name: value for name, value in (("channels", channels), ("size", size)) if takes(make, name)}
    check_arguments(f"The encoder '{reference}'", make, args, list(given))
    module = _called(reference, lambda: make(**given, **args))
    if not isinstance(module, nn.Module):
        raise InputError(f"The encoder '{reference}' gives {shown(module)}, not a torch.nn.Module.")
    if library == "torchvision":
        _without_head(reference, module)
    if stem is not None:
        _small_stem(reference, module, channels)
    return module.float()


def _called(reference: str, function: Callable[[], Any]) -> Any:
    try:
        with redirect_stdout(sys.stderr):  # a command's output may be JSON
            return function()
    except RtScaleError:
        raise
    except Exception as error:  # of a user's code
        raise InputError(
            f"The encoder '{reference}' cannot be used: {type(error).__name__}: {cut(str(error), 300)}. Its arguments "
            "are in encoder.args."
        ) from error


def embedding_width(reference: str, module: nn.Module, channels: int, size: int) -> int:
    """D of the embeddings [2, D] of two images; InputError, which names ``reference``, if they are anything else."""
    module.eval()
    with torch.no_grad():
        found = _called(reference, lambda: module(torch.zeros(2, channels, size, size)))
    module.train()
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 2 or not found.is_floating_point():
        what = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"The encoder '{reference}' turns images [2, {channels}, {size}, {size}] into {what}: an encoder gives "
            "embeddings [2, D] of floating point, e.g. after .flatten(1)."
        )
    return found.shape[1]


def _without_head(reference: str, module: nn.Module) -> None:
    name = next((each for each in HEADS if isinstance(getattr(module, each, None), nn.Module)), None)
    if name is None:
        raise InputError(f"The encoder '{reference}' has no classifier ({', '.join(HEADS)}) that could be removed.")
    setattr(module, name, nn.Identity())


def _small_stem(reference: str, module: nn.Module, channels: int) -> None:
    """For small images: a first convolution of 3 x 3 and stride 1, and no max-pool behind it (He et al. 2016, 4.2)."""
    first = getattr(module, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(module, "maxpool", None), nn.Module):
        raise InputError(
            f"The encoder '{reference}' has no conv1 and maxpool to be replaced: leave stem out of its args."
        )
    module.conv1 = nn.Conv2d(channels, first.out_channels, 3, 1, 1, bias=first.bias is not None)
    nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
    module.maxpool = nn.Identity()

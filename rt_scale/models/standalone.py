"""Python code that builds an encoder without rt-scale: through torchvision where it has the same, else its source."""

from __future__ import annotations

import inspect
import re
import sys

from rt_scale.models import encoder as base
from rt_scale.models.encoders import encoder_design
from rt_scale.spec.encoders import CONVNET_LEAST_MAP, convnet_pools, parse_encoder, scaled
from rt_scale.spec.networks import EncoderSpec

_NORM_LAYERS = {
    "batch": "torch.nn.BatchNorm2d",
    "instance": "functools.partial(torch.nn.InstanceNorm2d, affine=True)",
    "group8": "lambda channels: torch.nn.GroupNorm(channels // 8, channels)",
    "layer": "functools.partial(torch.nn.GroupNorm, 1)",
    "none": "torch.nn.Identity",
}


def torchvision_code(spec: EncoderSpec, channels: int) -> str | None:
    """Lines that define ``encoder`` by torchvision, with rt-scale's names of weights; None if it has no equal."""
    family = parse_encoder(spec.name).family
    if spec.width != 1 or family not in ("vgg", "resnet"):
        return None
    if family == "resnet":
        norm = "" if spec.norm == "batch" else f", norm_layer={_NORM_LAYERS[spec.norm]}"
        return "\n".join([
            f"encoder = torchvision.models.{spec.name}(weights=None{norm})",
            "# The stem for small images: 3 x 3, stride 1, no max-pool.",
            f"encoder.conv1 = torch.nn.Conv2d({channels}, 64, kernel_size=3, padding=1, bias=False)",
            "encoder.maxpool = encoder.fc = torch.nn.Identity()",
        ])  # fmt: skip
    if spec.norm not in ("none", "batch"):
        return None
    lines = [f"encoder = torchvision.models.{spec.name}{'_bn' if spec.norm == 'batch' else ''}(weights=None)"]
    if channels != 3:
        lines.append(f"encoder.features[0] = torch.nn.Conv2d({channels}, 64, kernel_size=3, padding=1)")
    lines.append("encoder.avgpool, encoder.classifier = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Identity()")
    return "\n".join(lines)


def source_code(spec: EncoderSpec, channels: int, size: int) -> str:
    """A module with the encoder's classes and a function ``build``; it imports torch and perhaps torchvision alone.

    ``size``: side of the images in pixels. InputError: the encoder cannot take such images.
    """
    design = encoder_design(spec, channels=channels, size=size)
    given = [f"{name}={value!r}" for name, value in design.keywords.items() if name != "norm"]
    if "norm" in design.keywords:
        given.append(f"norm=NORM_LAYERS[{spec.norm!r}]")
    family = inspect.getsource(sys.modules[design.func.__module__])
    used = [f"CONVNET_LEAST_MAP = {CONVNET_LEAST_MAP}\n", *map(inspect.getsource, (scaled, convnet_pools))]
    parts = [_without_imports(inspect.getsource(base)), *used, _without_imports(family)]
    build = f'def build() -> Encoder:\n    """{spec.name}, with weights that are to be loaded."""\n'
    call = f"    return {design.func.__name__}({', '.join(given)})\n"
    return "from __future__ import annotations\n\n" + "\n\n".join([*parts, build + call])


def _without_imports(source: str) -> str:
    return re.sub(r"^from (__future__|rt_scale\S*) import .*\n", "", source, flags=re.MULTILINE)

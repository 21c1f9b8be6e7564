"""Python code that builds an encoder without rt-scale: by torchvision where it has the same, else from its source."""

from __future__ import annotations

import inspect
import re
import sys
from typing import NamedTuple

from rt_scale.models import encoder as base
from rt_scale.models.encoders import encoder_design
from rt_scale.models.own import HEADS
from rt_scale.spec.encoders import CONVNET_LEAST_MAP, convnet_pools, parse_encoder, scaled
from rt_scale.spec.networks import EncoderSpec

_NORM_LAYERS = {
    "batch": "torch.nn.BatchNorm2d",
    "instance": "functools.partial(torch.nn.InstanceNorm2d, affine=True)",
    "group8": "lambda channels: torch.nn.GroupNorm(channels // 8, channels)",
    "layer": "functools.partial(torch.nn.GroupNorm, 1)",
    "none": "torch.nn.Identity",
}
_IDENTITY = "torch.nn.Identity()"


class Standalone(NamedTuple):
    """Code that defines ``encoder``, with rt-scale's names of weights.

    Attributes:
        imports, build: its lines.
        needs: in words, what it takes besides torch.
        of_torchvision: whether the module is one of torchvision's.
        source: the text of ``encoder.py`` beside it, if it takes one.
    """

    imports: str
    build: str
    needs: str
    of_torchvision: bool = False
    source: str | None = None


def standalone(spec: EncoderSpec, channels: int, size: int) -> Standalone:
    """How to build the encoder for images of ``channels`` x ``size`` x ``size``; InputError if it takes no such images.

    A plugin is not imported: the code imports it.
    """
    if spec.plugin is not None:
        return _plugin(spec, spec.plugin, channels, size)
    if (build := _torchvision(spec, channels)) is not None:
        imports = f"{'import functools' if 'functools' in build else ''}\nimport torchvision".strip()
        return Standalone(imports, build, "torchvision", of_torchvision=True)
    needs = "the file encoder.py beside this card, which is the part of rt-scale that defines it"
    return Standalone("from encoder import build", "encoder = build()", needs, source=_source(spec, channels, size))


def _torchvision(spec: EncoderSpec, channels: int) -> str | None:
    """By torchvision's function; None if it has no equal."""
    family = parse_encoder(spec.name).family
    if spec.width != 1 or family not in ("vgg", "resnet") or (family == "vgg" and spec.norm not in ("none", "batch")):
        return None
    if family == "resnet":
        norm = "" if spec.norm == "batch" else f", norm_layer={_NORM_LAYERS[spec.norm]}"
        made = f"encoder = torchvision.models.{spec.name}(weights=None{norm})"
        return "\n".join([made, f"encoder.fc = {_IDENTITY}", *_small_stem(channels)])
    lines = [f"encoder = torchvision.models.{spec.name}{'_bn' if spec.norm == 'batch' else ''}(weights=None)"]
    if channels != 3:
        lines.append(f"encoder.features[0] = torch.nn.Conv2d({channels}, 64, kernel_size=3, padding=1)")
    lines.append(f"encoder.avgpool, encoder.classifier = torch.nn.AdaptiveAvgPool2d(1), {_IDENTITY}")
    return "\n".join(lines)


def _small_stem(channels: int) -> list[str]:
    first = f"torch.nn.Conv2d({channels}, encoder.conv1.out_channels, 3, 1, 1, bias=encoder.conv1.bias is not None)"
    return [
        "# The stem for small images: 3 x 3, stride 1, no max-pool.",
        f"encoder.conv1, encoder.maxpool = {first}, {_IDENTITY}",
    ]


def _plugin(spec: EncoderSpec, reference: str, channels: int, size: int) -> Standalone:
    """As ``own.build_own`` calls it."""
    module, _, name = reference.partition(":")
    library, args = module.partition(".")[0], dict(spec.arguments)
    known = library in ("torchvision", "timm")
    stem = args.pop("stem", None) if known else None
    if library == "timm":
        args = {"num_classes": 0, "in_chans": channels, **args}
    lines = [
        f"given = {{'channels': {channels}, 'size': {size}}}",
        f"given = {{key: given[key] for key in given if key in inspect.signature({name}).parameters}}",
        f"encoder = {name}(**given, **{args!r})",
    ]
    if library == "torchvision":
        lines.append(f"setattr(encoder, next(each for each in {HEADS} if hasattr(encoder, each)), {_IDENTITY})")
    lines += _small_stem(channels) if stem else []
    needs = library if known else f"the module {module} with SHA-256 {spec.source}, which is not in this folder"
    return Standalone(
        f"import inspect\n\nfrom {module} import {name}", "\n".join(lines), needs, library == "torchvision"
    )


def _source(spec: EncoderSpec, channels: int, size: int) -> str:
    """A module with the encoder's classes and a function ``build``; it imports torch and perhaps torchvision alone."""
    design = encoder_design(spec, channels=channels, size=size)
    given = [f"{name}={value!r}" for name, value in design.keywords.items() if name != "norm"]
    given += [f"norm=NORM_LAYERS[{spec.norm!r}]"] if "norm" in design.keywords else []
    used = [f"CONVNET_LEAST_MAP = {CONVNET_LEAST_MAP}\n", *map(inspect.getsource, (scaled, convnet_pools))]
    files = [inspect.getsource(module) for module in (base, sys.modules[design.func.__module__])]
    parts = [re.sub(r"^from (__future__|rt_scale\S*) import .*\n", "", file, flags=re.MULTILINE) for file in files]
    build = f"def build() -> Encoder:\n    return {design.func.__name__}({', '.join(given)})\n"
    return "from __future__ import annotations\n\n" + "\n\n".join([parts[0], *used, parts[1], build])

"""An encoder of a run as a folder that opens without rt-scale: safetensors, configuration, and a card with its code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import save

from rt_scale import __version__
from rt_scale.experiments.networks import Role, images_of, load_weights, stored_spec
from rt_scale.models.encoders import build_encoder
from rt_scale.models.standalone import source_code, torchvision_code
from rt_scale.spec.errors import InputError
from rt_scale.spec.kinds import TrainingSpec
from rt_scale.store.atomic import names_in, write_bytes, write_json
from rt_scale.store.results import ImageRecord
from rt_scale.store.run_dir import RunDir
from rt_scale.training.precision import parameter_dtype

Form = Literal["torchvision", "safetensors", "huggingface"]
WEIGHTS, CONFIG, CARD, SOURCE = "model.safetensors", "config.json", "README.md", "encoder.py"
_HEAD = """---
license: unknown
library_name: pytorch
pipeline_tag: image-feature-extraction
tags: [self-distillation, random-teacher, rt-scale]
---

"""
_CODE = '''{first}import json

import torch
from safetensors.torch import load_file
{library}

config = json.load(open("config.json"))
dtype, layout = torch.{dtype}, torch.{layout}
{build}
encoder.to(dtype).load_state_dict(load_file("model.safetensors"))
encoder.to(memory_format=layout).eval()


def preprocess(images):
    """Inputs [B, C, S, S] of uint8 images [B, H, W, C]."""
    pixels = images.permute(0, 3, 1, 2).to(dtype)
    size = (config["size"], config["size"])
    if pixels.shape[2:] != size:
        pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    scale = torch.tensor([1 / (255 * std) for std in config["std"]], dtype=dtype)
    shift = torch.tensor([-mean / std for mean, std in zip(config["mean"], config["std"])], dtype=dtype)
    return torch.addcmul(shift.view(1, -1, 1, 1), pixels, scale.view(1, -1, 1, 1)).to(memory_format=layout)


with torch.inference_mode():
    images = torch.zeros(2, {size}, {size}, {channels}, dtype=torch.uint8)
    embeddings = encoder(preprocess(images))  # [2, {embed_dim}]
'''
"""Loads an encoder from its folder, and embeds images as ``data.inputs.to_inputs`` and the run do."""


def write_weights(
    run_dir: RunDir, folder: Path, form: Form, data_dir: Path, role: Role = "student", step: int | None = None
) -> list[Path]:
    """Write an encoder's weights, ``config.json``, a model card and, without equal in torchvision, its source.

    The weights are a state dict in safetensors in every form. ``torchvision`` is for encoders that torchvision has;
    the card of ``huggingface`` has the head that its hub reads.

    Args:
        folder: a new or empty one.
        data_dir: as of ``networks.images_of``.
        role, step: as of ``networks.load_weights``.

    Raises:
        InputError: the folder holds files, torchvision has no such encoder, or the network is not there.
        RunError: the checkpoint is damaged, or the disk is full.
    """
    if folder.is_file() or names_in(folder):
        raise InputError(f"'{folder}' is not empty: name a new folder for the weights.")
    spec = stored_spec(run_dir)
    images = images_of(run_dir, data_dir)
    by_torchvision = torchvision_code(spec.encoder, images.channels)
    if form == "torchvision" and by_torchvision is None:
        raise InputError(
            f"torchvision has no encoder {spec.encoder.name} with norm {spec.encoder.norm} at width "
            f"{spec.encoder.width:g}: it has vgg11 to vgg19 with norm none or batch, and resnet18, resnet34 and "
            "resnet50, at width 1. Take --as safetensors or huggingface, which bring the encoder's source."
        )
    step, weights = load_weights(run_dir, role, step)
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    config = _config(run_dir, spec, images, role, step)
    code = _code(config, by_torchvision)
    written = [folder / WEIGHTS]
    write_bytes(written[0], save(own, {"format": "pt"}))
    if by_torchvision is None:
        written.append(folder / SOURCE)
        write_bytes(written[-1], source_code(spec.encoder, images.channels, config["size"]).encode())
    write_json(folder / CONFIG, config)
    card = (_HEAD if form == "huggingface" else "") + _card(run_dir, spec, config, code, by_torchvision is not None)
    write_bytes(folder / CARD, card.encode())
    return [*written, folder / CONFIG, folder / CARD]


def _config(run_dir: RunDir, spec: TrainingSpec, images: ImageRecord, role: Role, step: int) -> dict[str, Any]:
    size = spec.data.size or images.size
    with torch.device("meta"):
        encoder = build_encoder(spec.encoder, channels=images.channels, size=size)
    record = run_dir.record()
    return {
        "run": run_dir.name, "network": role, "step": step, "encoder": spec.encoder.model_dump(mode="json"),
        "embed_dim": encoder.embed_dim, "channels": images.channels, "size": size, "mean": images.mean,
        "std": images.std, "dtype": str(parameter_dtype(spec.precision)).removeprefix("torch."),
        "channels_last": record is not None and record.execution.channels_last, "rt_scale": __version__,
    }  # fmt: skip


def _code(config: Mapping[str, Any], by_torchvision: str | None) -> str:
    """The card's code: from the files of the folder to embeddings."""
    layout = "channels_last" if config["channels_last"] else "contiguous_format"
    build = by_torchvision or "encoder = build()"
    return _CODE.format(
        first="import functools\n" if "functools." in build else "",
        library="import torchvision" if by_torchvision else "from encoder import build  # encoder.py in this folder",
        build=build, layout=layout, **config,
    )  # fmt: skip


def _card(run_dir: RunDir, spec: TrainingSpec, config: Mapping[str, Any], code: str, by_torchvision: bool) -> str:
    record, result = run_dir.record(), run_dir.result()
    images = record.data if record else None
    data = f"{_text(images.title)} (`{spec.data.name}`, sha256 `{images.sha256}`)" if images else spec.data.name
    whose = {"student": "The student", "teacher": "The teacher", "init": "The student before training"}[
        config["network"]
    ]
    learned = "trained on labels" if spec.learns_labels else "distilled from a random teacher"
    needs = "torchvision" if by_torchvision else "the file `encoder.py` beside this card, as torchvision has no equal"
    numbers = sorted(result.last.items()) if result else []
    table = "\n".join(
        ["| metric | value |", "| --- | ---: |", *(f"| {name} | {value:.6g} |" for name, value in numbers)]
    )
    return f"""# {spec.encoder.name}, {learned} on {_text(images.title if images else spec.data.name)}

{whose}'s encoder of the run `{run_dir.name}` at step {config["step"]}, written by rt-scale {__version__}.
`{WEIGHTS}` is its state dict, without the projector; nothing in this folder is a pickle. Building the network
takes torch, safetensors and {needs}; not rt-scale.

## How to load it

In this folder:

```python
{code}```

Pixels in [0, 1] are normalised with mean {_listed(config["mean"])} and standard deviation {_listed(config["std"])}, at
{config["size"]} x {config["size"]} pixels. Last bits depend on the batch size, the number of threads and the device.

## Data

{data}

## Result

{f"Of the finished run, after {result.steps:,} steps:" if result else "The run was not finished when this was written."}

{table if result else ""}

## Spec

```yaml
{yaml.safe_dump(spec.canonical(), sort_keys=False)}```

## Licence

Chosen by whoever publishes these weights; the terms of the data may apply. Code of rt-scale, such as `{SOURCE}`, is
under Apache-2.0.
"""


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _text(value: object) -> str:
    """On one line, and without the marks that open code, tables, links or HTML."""
    return " ".join("".join(each for each in str(value) if each not in "`|<>[]*#").split())

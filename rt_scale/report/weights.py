"""An encoder of a run as a folder that opens without rt-scale: safetensors, configuration, and a card with its code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from safetensors.torch import save

from rt_scale import __version__
from rt_scale.experiments.networks import Role, images_of, load_weights, stored_spec
from rt_scale.models.standalone import standalone
from rt_scale.report.page import markdown
from rt_scale.spec.errors import InputError
from rt_scale.spec.networks import EncoderSpec
from rt_scale.store.atomic import names_in, write_bytes, write_json
from rt_scale.store.run_dir import RunDir
from rt_scale.training.precision import parameter_dtype

Form = Literal["torchvision", "safetensors", "huggingface"]
WEIGHTS, SOURCE, CONFIG, CARD = "model.safetensors", "encoder.py", "config.json", "README.md"


def write_weights(
    run_dir: RunDir, folder: Path, form: Form, data_dir: Path, role: Role = "student", step: int | None = None
) -> list[Path]:
    """Write an encoder's weights, its source unless a library has it, ``config.json``, and a model card.

    The weights are a state dict in safetensors in every form. ``torchvision`` is for encoders that torchvision has;
    the card of ``huggingface`` has the head that its hub reads. Nothing of the run is executed, no plugin either.

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
    spec, images, record = stored_spec(run_dir), images_of(run_dir, data_dir), run_dir.record()
    size = spec.data.size or images.size
    encoder = spec.encoder_of(role)
    built = standalone(encoder, images.channels, size)
    if form == "torchvision" and not built.of_torchvision:
        raise _not_of_torchvision(encoder)
    step, weights = load_weights(run_dir, role, step)
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    config = {
        "run": run_dir.name, "network": role, "step": step, "encoder": encoder.model_dump(mode="json"),
        "channels": images.channels, "size": size, "mean": images.mean, "std": images.std,
        "dtype": str(parameter_dtype(spec.precision)).removeprefix("torch."),
        "channels_last": record is not None and record.execution.channels_last, "rt_scale": __version__,
    }  # fmt: skip
    card = markdown(
        "weights.md", form=form, config=config, built=built, spec=spec, data=record and record.data,
        result=run_dir.result(), yaml=yaml.safe_dump(spec.canonical(), sort_keys=False).strip(),
    )  # fmt: skip
    write_bytes(folder / WEIGHTS, save(own, {"format": "pt"}))
    if built.source is not None:
        write_bytes(folder / SOURCE, built.source.encode())
    write_json(folder / CONFIG, config)
    write_bytes(folder / CARD, card.encode())
    return [folder / name for name in names_in(folder)]


def _not_of_torchvision(encoder: EncoderSpec) -> InputError:
    return InputError(
        f"torchvision has no encoder {encoder.name} with norm {encoder.norm} at width {encoder.width:g}: it has vgg11 "
        "to vgg19 with norm none or batch, and resnet18, resnet34 and resnet50, at width 1. Take --as safetensors or "
        "huggingface, which say how to load any encoder."
    )

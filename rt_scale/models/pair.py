"""Networks, and the pair of teacher and student that a run starts from."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.init import initialise, local_initialisation, neighbourhood_initialisation
from rt_scale.models.projector import Projector
from rt_scale.spec.run import RunSpec
from rt_scale.spec.seeding import stream

Model = TypeVar("Model", bound=nn.Module)


class Network(nn.Module):
    """An encoder and the projector on top of it."""

    def __init__(self, encoder: Encoder, projector: Projector) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def features(self, images: Tensor) -> Tensor:
        """Unit-length bottleneck features [B, k] of images [B, C, H, W]."""
        features: Tensor = self.projector.features(self.encoder(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        logits: Tensor = self.projector(self.encoder(images))
        return logits


class Pair(NamedTuple):
    """What a run starts from.

    Attributes:
        teacher: random, frozen (no gradients) and in evaluation mode.
        student: of the same architecture, in training mode.
    """

    teacher: Network
    student: Network


def build_network(spec: RunSpec, channels: int, size: int, generator: torch.Generator) -> Network:
    """A network of ``spec``'s architecture, in float32 on the CPU, drawn from ``generator`` alone.

    torch's global random state is left alone: the modules are made without memory, then filled.

    Args:
        spec: its ``encoder`` and ``projector`` are read.
        channels: of the images, 1 or 3.
        size: side of the images in pixels.
        generator: on the CPU, so that runs on every device start from the same numbers.

    Raises:
        InputError: unknown encoder or normalisation, image too small.
    """
    head = spec.projector
    with torch.device("meta"):
        encoder = build_encoder(spec.encoder, channels=channels, size=size)
        projector = Projector(
            encoder.embed_dim,
            head.hidden,
            head.bottleneck,
            head.out_dim,
            parts=head.parts,
            activation=head.activation,
            batch_norm=head.batch_norm,
        )
        network = Network(encoder, projector).float().to_empty(device="cpu")
    initialise(network.encoder, generator)
    initialise(network.projector, generator, linear=head.init)
    return network


def build_pair(spec: RunSpec, channels: int, size: int) -> Pair:
    """Teacher and locally initialised student, in float32 on the CPU.

    The teacher is the draw of stream ``teacher`` at ``seeds.teacher``; the student's own share
    (``student.alpha``, or ``student.epsilon``) is the draw of stream ``student`` at ``seeds.student``.

    Args:
        spec: its ``encoder``, ``projector``, ``student`` and ``seeds`` are read.
        channels: of the images, 1 or 3.
        size: side of the images in pixels, after resizing.

    Raises:
        InputError: as ``build_network``.
    """
    teacher = build_network(spec, channels, size, _generator("teacher", spec.seeds.teacher))
    fresh = build_network(spec, channels, size, _generator("student", spec.seeds.student))
    start = spec.student
    if start.epsilon is None:
        student = local_initialisation(teacher, fresh, start.alpha)
    else:
        student = neighbourhood_initialisation(teacher, fresh, start.epsilon)
    return Pair(teacher.requires_grad_(False).eval(), student.train())


def to_device(network: Model, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
    """Move ``network`` in place, its convolutions laid out channels-last as the images are.

    Args:
        network: any module.
        device: where to.
        dtype: of floating-point parameters and buffers; None leaves it.

    Returns:
        ``network``.
    """
    network.to(device=device, dtype=dtype)
    # Only four-dimensional weights, those of convolutions, have a layout.
    network.to(memory_format=torch.channels_last)
    return network


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(stream(name, seed))

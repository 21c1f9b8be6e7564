"""Networks, and a run's initial pair of teacher and student."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.init import initialise, local_initialisation, neighbourhood_initialisation
from rt_scale.models.own import build_own
from rt_scale.models.projector import Projector
from rt_scale.spec.run import RunSpec, stream

Model = TypeVar("Model", bound=nn.Module)
Weights = Mapping[str, Tensor]
"""Parameters and buffers by name."""
NOTHING: Mapping[str, Weights] = {}


class Network(nn.Module):
    """An encoder and the projector on top of it."""

    def __init__(self, encoder: Encoder, projector: Projector) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def features(self, images: Tensor) -> Tensor:
        """Bottleneck features [B, k] of images [B, C, H, W]."""
        return self.projector.features(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        logits: Tensor = self.projector(self.encoder(images))
        return logits

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S], ordered by view, then by image."""
        return self.projector.features(self._embeddings(views))

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], ordered by view, then by image."""
        logits: Tensor = self.projector(self._embeddings(views))
        return logits

    def _embeddings(self, views: Sequence[Tensor]) -> Tensor:
        """Embeddings [V B, d]; as in DINO, adjacent views of one size form one batch, also for batch norm."""
        sizes = itertools.groupby(views, key=lambda view: view.shape)
        return _joined([self.encoder(_joined(list(same))) for _, same in sizes])


class FeaturesOfViews(nn.Module):
    """A module whose forward pass gives bottleneck features; CUDA graphs and batched networks need a module."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *views: Tensor) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S]."""
        return self.network.features_of_views(views)


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


class Pair(NamedTuple):
    """A run's networks at its start: a teacher without gradients in evaluation mode, a student in training mode."""

    teacher: Network
    student: Network


def empty_network(spec: RunSpec, channels: int, size: int) -> Network:
    """A network of ``spec``'s architecture on the meta device; arguments as of ``build_network``."""
    with torch.device("meta"):
        if spec.encoder.plugin is None:
            encoder = build_encoder(spec.encoder, channels=channels, size=size)
        else:
            encoder = build_own(spec.encoder, channels=channels, size=size, seed=0).to("meta")
        return Network(encoder, Projector(encoder.embed_dim, spec.projector))


def build_network(spec: RunSpec, channels: int, size: int, generator: torch.Generator) -> Network:
    """A network of ``spec``'s architecture, in float32 on the CPU, drawn from ``generator`` only.

    Args:
        spec: its ``encoder`` and ``projector`` are read; InputError if they cannot take such images.
        channels: of the images, 1 or 3.
        size: side of the images in pixels, after resizing.
        generator: on the CPU, so that runs on every device start from the same numbers. A plugin's constructor draws
            its own weights, from a seed that is drawn here.
    """
    if spec.encoder.plugin is None:
        network = empty_network(spec, channels, size).float().to_empty(device="cpu")
        initialise(network.encoder, generator)
    else:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        encoder = build_own(spec.encoder, channels=channels, size=size, seed=seed)
        with torch.device("meta"):
            projector = Projector(encoder.embed_dim, spec.projector)
        network = Network(encoder, projector.float().to_empty(device="cpu"))
    initialise(network.projector, generator, linear=spec.projector.init)
    return network


def build_pair(spec: RunSpec, channels: int, size: int, weights: Mapping[str, Weights] = NOTHING) -> Pair:
    """Teacher and student at the start of a run, on the CPU in float32, or in float64 if any weights are.

    The teacher is the draw of stream ``teacher`` at ``seeds.teacher``. The student is initialised near it, with the
    draw of stream ``student`` at ``seeds.student``.

    Args:
        spec: its ``encoder``, ``projector``, ``student`` and ``seeds`` are read.
        channels: as of ``build_network``.
        size: as of ``build_network``.
        weights: ``teacher`` or ``student`` -> weights to start from instead, of the whole network or of its encoder
            only (the projector is then drawn); ValueError for those of another architecture.
    """
    dtypes = {value.dtype for taken in weights.values() for value in taken.values()}
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    teacher, fresh = (
        build_network(spec, channels, size, torch.Generator("cpu").manual_seed(stream(role, seed))).to(dtype)
        for role, seed in (("teacher", spec.seeds.teacher), ("student", spec.seeds.student))
    )
    if "teacher" in weights:
        _take_over(teacher, weights["teacher"])
    start = spec.student
    if "student" in weights:
        student = _take_over(fresh, weights["student"])
    elif start.epsilon is None:
        student = local_initialisation(teacher, fresh, start.alpha)
    else:
        student = neighbourhood_initialisation(teacher, fresh, start.epsilon)
    return Pair(teacher.requires_grad_(False).eval(), student.train())


def _take_over(network: Network, weights: Weights) -> Network:
    own = network.state_dict()
    encoder = {name for name in own if name.startswith("encoder.")}
    wanted = encoder if weights.keys() <= encoder else own.keys()
    strange = sorted(wanted ^ weights.keys())
    strange += sorted(name for name in wanted & weights.keys() if own[name].shape != weights[name].shape)
    if strange:
        raise ValueError(f"these weights are of another architecture: {', '.join(strange[:3])}")
    network.load_state_dict({**own, **weights})
    return network


def to_device(
    network: Model, device: torch.device | str, dtype: torch.dtype | None = None, *, channels_last: bool = True
) -> Model:
    """Move ``network`` in place; ``channels_last`` is the format of its convolution weights, so of all feature maps."""
    network.to(device=device, dtype=dtype)
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return network

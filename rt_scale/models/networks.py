"""Networks, how their weights are drawn, and a run's initial pair of teacher and student (paper, section 4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.own import build_own
from rt_scale.models.plain import RectifiedLinear
from rt_scale.models.projector import Projector
from rt_scale.models.vit import Tokens, ViT
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.run import stream

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
        return self.of_views((images,))

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S], ordered by view, then by image.

        As in DINO, adjacent views of one size form one batch, also for batch norm.
        """
        sizes = itertools.groupby(views, key=lambda view: view.shape)
        return self.projector.features(_joined([self.encoder(_joined(list(same))) for _, same in sizes]))

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], ordered by view, then by image."""
        return self.projector.logits(self.features_of_views(views))


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


def empty_network(spec: TrainingSpec, channels: int, size: int, role: str = "student") -> Network:
    """A network of ``spec``'s architecture on the meta device; arguments as of ``build_network``."""
    with torch.device("meta"):
        if spec.encoder.plugin is None:
            encoder = build_encoder(spec.encoder_of(role), channels=channels, size=size)
        else:
            encoder = build_own(spec.encoder, channels=channels, size=size, seed=0).to("meta")
        return Network(encoder, Projector(encoder.embed_dim, spec.projector))


def build_network(
    spec: TrainingSpec, channels: int, size: int, generator: torch.Generator, role: str = "student"
) -> Network:
    """A network of ``spec``'s architecture, in float32 on the CPU, drawn from ``generator`` only.

    Args:
        spec: its ``encoder`` and ``projector`` are read; InputError if they cannot take such images.
        channels: of the images, 1 or 3.
        size: side of the images in pixels, after resizing.
        generator: on the CPU, so that runs on every device start from the same numbers. A plugin's constructor draws
            its own weights, from a seed that is drawn here.
        role: whose, as of ``TrainingSpec.encoder_of``.
    """
    if spec.encoder.plugin is None:
        network = empty_network(spec, channels, size, role).float().to_empty(device="cpu")
        initialise(network.encoder, generator, linear=_OF_ENCODERS[spec.encoder.init])
    else:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        encoder = build_own(spec.encoder, channels=channels, size=size, seed=seed)
        with torch.device("meta"):
            projector = Projector(encoder.embed_dim, spec.projector)
        network = Network(encoder, projector.float().to_empty(device="cpu"))
    initialise(network.projector, generator, linear=spec.projector.init)
    return network


def build_pair(spec: TrainingSpec, channels: int, size: int, weights: Mapping[str, Weights] = NOTHING) -> Pair:
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
        build_network(spec, channels, size, torch.Generator("cpu").manual_seed(stream(role, seed)), role).to(dtype)
        for role, seed in (("teacher", spec.seeds.teacher), ("student", spec.seeds.student))
    )
    if "teacher" in weights:
        _take_over(teacher, weights["teacher"])
    start = spec.student
    if isinstance(fresh.encoder, ViT) and spec.encoder.init == "authors":
        fresh.encoder.embed_patch.load_state_dict(teacher.get_submodule("encoder.embed_patch").state_dict())
    if "student" in weights:
        student = _take_over(fresh, weights["student"])
    elif spec.teacher.width is not None:
        student = fresh
    elif start.epsilon is None:
        student = local_initialisation(teacher, fresh, start.alpha)
    else:
        student = neighbourhood_initialisation(teacher, fresh, start.epsilon)
    return Pair(teacher.requires_grad_(False).eval(), student.train())


def build_others(spec: TrainingSpec, channels: int, size: int) -> list[Network]:
    """The teachers after the first, as that of ``build_pair``: draws of stream ``teacher`` at their number, from 1."""
    generators = (
        torch.Generator("cpu").manual_seed(stream("teacher", spec.seeds.teacher, number))
        for number in range(1, spec.teacher.count or 1)
    )
    drawn = (build_network(spec, channels, size, generator, "teacher") for generator in generators)
    return [network.requires_grad_(False).eval() for network in drawn]


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


def _kaiming(module: nn.Conv2d | RectifiedLinear, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _linear(module: nn.Linear, generator: torch.Generator) -> None:
    _truncated_normal(module.weight, generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _torch_linear(module: nn.Linear, generator: torch.Generator) -> None:
    # torch's default: uniform in +-1/sqrt(inputs) for weights (Kaiming uniform with a = sqrt 5) and biases.
    bound = module.in_features**-0.5
    module.weight.uniform_(-bound, bound, generator=generator)
    if module.bias is not None:
        module.bias.uniform_(-bound, bound, generator=generator)


def _tokens(module: Tokens, generator: torch.Generator) -> None:
    _truncated_normal(module.class_token, generator)
    _truncated_normal(module.positions, generator)


def _standard_tokens(module: Tokens, generator: torch.Generator) -> None:
    module.class_token.normal_(generator=generator)
    module.positions.normal_(generator=generator)


def _truncated_normal(tensor: Tensor, generator: torch.Generator) -> None:
    # Clamping at 100 sigma equals truncation. torch's trunc_normal_ is not used: its draws differ between versions
    # (inverse error function, rejection), and so would a run's numbers.
    tensor.normal_(0.0, 0.02, generator=generator).clamp_(-2.0, 2.0)


def _normalisation(module: nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm, generator: torch.Generator) -> None:
    module.reset_parameters()


_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
_INITIALISERS: dict[type[nn.Module], Callable[[Any, torch.Generator], None]] = {
    nn.Conv2d: _kaiming,
    nn.Linear: _linear,
    RectifiedLinear: _kaiming,
    Tokens: _tokens,
    **dict.fromkeys(_NORMALISATIONS, _normalisation),
}
"""By type; a subclass uses the rule of its nearest base class."""
_LINEAR: dict[str, dict[type[nn.Module], Callable[[Any, torch.Generator], None]]] = {
    "trunc_normal": {},
    "torch": {nn.Linear: _torch_linear},
    "authors": {nn.Linear: _torch_linear, Tokens: _standard_tokens},
}
"""What differs, by ``linear`` of ``initialise``."""
_OF_ENCODERS = {"default": "trunc_normal", "authors": "authors"}
"""``linear`` of ``initialise``, by an encoder's ``init``."""
_TORCHS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""Parameters and buffers of torch's layers, which the rules cover."""


@torch.no_grad()
def initialise(model: Model, generator: torch.Generator, *, linear: str = "trunc_normal") -> Model:
    """Set every parameter and buffer of ``model``, in place, with random numbers from ``generator`` only.

    Convolutions and an MLP encoder's layers are Kaiming normal (fan-out, ReLU gain). The projector's linear weights
    (paper, appendix E.1) and all of a ViT's, including patch embedding, class token and positions (DeiT, Touvron et
    al. 2020; DINO), are truncated normal (sigma 0.02, cut at -2 and 2). Biases are 0; normalisations have scale 1 and
    shift 0. Modules are drawn in the order of ``model.modules()``: the projector does not affect an encoder's draw.

    Args:
        model: on the generator's device.
        generator: on the CPU if every device should draw the same numbers.
        linear: ``trunc_normal`` as above, ``torch``, torch's default, or ``authors`` (the published code's
            ViTs), torch's default with class token and positions N(0, 1).

    Raises:
        InputError: another ``linear``.
        TypeError: no rule covers a parameter or buffer.
    """
    if linear not in _LINEAR:
        raise unknown_name("initialisation of linear layers", linear, _LINEAR)
    initialisers = _INITIALISERS | _LINEAR[linear]
    for name, module in model.named_modules():
        own = {key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
        if not own:
            continue
        kind = next((each for each in type(module).__mro__ if each in initialisers), None)
        unknown = own if kind is None else set() if kind is type(module) else own - _TORCHS
        if kind is None or unknown:
            raise TypeError(
                f"no initialisation is known for {', '.join(sorted(unknown))} of {type(module).__name__} at '{name}'"
            )
        initialisers[kind](module, generator)
    return model


def local_initialisation(teacher: nn.Module, fresh: Model, alpha: float) -> Model:
    """Move ``fresh`` towards ``teacher``, in place: theta = ((1 - alpha) theta_T + alpha theta~) / delta.

    delta = sqrt(alpha^2 + (1 - alpha)^2) keeps the variance of the parameters (paper, section 4). This applies to all
    parameters, including normalisation scales and biases; buffers become the teacher's. At alpha = 0 the parameters
    equal the teacher's bit for bit.

    Args:
        teacher: a network of the same architecture, dtype and device.
        fresh: theta~, an independent draw of the same initialisation.
        alpha: locality in [0, 1].

    Raises:
        InputError: alpha outside [0, 1].
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}; it must lie in [0, 1]: 0 starts at the teacher, 1 at a fresh draw.")
    return _combine(teacher, fresh, 1.0 - alpha, alpha, math.sqrt(alpha**2 + (1.0 - alpha) ** 2))


def neighbourhood_initialisation(teacher: nn.Module, fresh: Model, epsilon: float) -> Model:
    """Move ``fresh`` near ``teacher``, in place: theta = theta_T + epsilon theta~, for every parameter.

    Unlike in ``local_initialisation``, the variance grows by the factor 1 + epsilon^2. Buffers become the teacher's. At
    epsilon = 0 the result equals the teacher bit for bit.

    Raises:
        InputError: epsilon below 0.
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not epsilon >= 0.0:
        raise InputError(f"epsilon is {epsilon}; it must be at least 0, where 0 starts at the teacher.")
    return _combine(teacher, fresh, 1.0, epsilon, 1.0)


@torch.no_grad()
def _combine(teacher: nn.Module, fresh: Model, of_teacher: float, of_fresh: float, scale: float) -> Model:
    """``fresh`` with parameters (of_fresh ``fresh`` + of_teacher ``teacher``) / scale and the teacher's buffers."""
    taught, given = (
        {(name, tensor.shape) for name, tensor in model.state_dict().items()} for model in (teacher, fresh)
    )
    if taught != given:
        differing = sorted(taught ^ given)
        raise ValueError(f"teacher and student must have one architecture; they differ in {differing[:4]}")
    for parameter, its in zip(fresh.parameters(), teacher.parameters(), strict=True):
        parameter.mul_(of_fresh).add_(its, alpha=of_teacher).div_(scale)
    for buffer, kept in zip(fresh.buffers(), teacher.buffers(), strict=True):
        buffer.copy_(kept)
    return fresh

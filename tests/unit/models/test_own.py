"""Encoders of users: built from a seed, measured, and refused with the shape that they gave."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from rt_scale.models.networks import build_network, build_pair, empty_network
from rt_scale.models.own import build_own, embedding_width, seed_all, seeded
from rt_scale.plugins import find_source
from rt_scale.spec.errors import InputError
from rt_scale.spec.networks import EncoderSpec
from rt_scale.spec.run import RunSpec
from tests.plugins import Write, write

__all__ = ["write"]

TEXT = """
import random
import numpy as np
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, channels, size, width=4):
        super().__init__()
        self.layer = nn.Linear(channels * size**2, width)
        self.scale = nn.Parameter(torch.tensor([random.random(), np.random.rand()]).repeat(width // 2))
        self.norm = nn.BatchNorm1d(width)

    def forward(self, images):
        return self.norm(self.layer(images.flatten(1)) * self.scale)

class Flat(nn.Module):
    embed_dim = 7
    def forward(self, images):
        return images.flatten(1)

def maps(): return nn.Conv2d(1, 3, 3)
def summed(): return nn.Sequential(nn.Flatten(0), nn.Linear(128, 3))
def whole(): return nn.Module()
def number(): return 3
def listed():
    module = nn.Module()
    module.forward = lambda images: [images]
    return module
"""


@pytest.fixture
def own(write: Write) -> Callable[..., EncoderSpec]:
    """Makes the spec of an encoder in a file of the current folder."""
    write("mine_nets.py", TEXT)

    def make(name: str, **args: Any) -> EncoderSpec:
        reference = name if ":" in name else f"mine_nets:{name}"
        return EncoderSpec.model_validate({"name": reference, "args": args, "source": find_source(reference).sha256})

    return make


Own = Callable[..., EncoderSpec]


def spec_with(encoder: EncoderSpec) -> RunSpec:
    return RunSpec.model_validate(
        {"data": {"name": "digits"}, "encoder": encoder.model_dump(), "projector": {"hidden": [8], "out_dim": 16}}
    )


def test_its_weights_come_from_the_seed_alone(own: Own) -> None:
    spec = own("Tiny", width=6)
    first = build_own(spec, channels=1, size=8, seed=1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    torch.rand(3), np.random.rand(3), random.random()
    drawn = torch.get_rng_state()
    again, other = (build_own(spec, channels=1, size=8, seed=seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), drawn)  # nothing leaks
    assert not torch.equal(states[0], drawn)
    assert first.embed_dim == 6
    assert first.layer.in_features == 64  # type: ignore[union-attr]
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name in ("layer.weight", "scale"):
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert first.training
    assert first.state_dict()["norm.num_batches_tracked"] == 0


def test_seeds_of_global_generators() -> None:
    def drawn() -> list[float]:
        return [torch.rand(()).item(), float(np.random.rand()), random.random()]

    seed_all(5)
    first, after = drawn(), drawn()
    with seeded(5):
        inside = drawn()
    assert inside == first
    seed_all(5)
    assert drawn() == first
    with seeded(7):
        assert drawn() != first
    assert drawn() == after


def test_a_network_of_it_is_drawn_from_the_generator(own: Own) -> None:
    spec = spec_with(own("Tiny"))
    networks = [build_network(spec, 1, 8, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["encoder.layer.weight"], states[2]["encoder.layer.weight"])
    drawn = [name for name in states[0] if name.startswith("projector") and states[0][name].any()]
    assert drawn
    assert not any(torch.equal(states[0][name], states[2][name]) for name in drawn)
    assert {name: value.shape for name, value in empty_network(spec, 1, 8).state_dict().items()} == {
        name: value.shape for name, value in states[0].items()
    }
    assert all(value.is_meta for value in empty_network(spec, 1, 8).parameters())
    pair = build_pair(spec, 1, 8)
    assert pair.student(torch.ones(2, 1, 8, 8)).shape == (2, 16)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("maps", {}, r"turns images \[2, 1, 8, 8\] into \[2, 3, 6, 6\]"),
        ("summed", {}, r"into \[3\]"),
        ("listed", {}, "into list"),
        ("number", {}, r"gives 3, not a torch.nn.Module"),
        ("whole", {}, "NotImplementedError"),
        ("Tiny", {"widht": 3}, "did you mean 'width'"),
        ("Tiny", {"size": 3}, "gives it itself"),
        ("Tiny", {"width": "wide"}, "TypeError"),
        ("Flat", {}, "has embed_dim 7, but gives 64"),
        ("torchvision.models:resnet18", {}, "expected input.*3 channels"),
        ("torchvision.models:resnet18", {"num_clases": 3}, "num_clases"),
        ("torchvision.models:vgg11", {"stem": "small"}, "no conv1 and maxpool"),
        ("torchvision.models:resnet18", {"stem": "large"}, "allowed is small"),
    ],
)
def test_what_is_no_encoder_is_refused(own: Own, name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_own(own(name, **args), channels=1, size=8, seed=0)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("vgg11", 25088), ("mobilenet_v3_small", 576)])
def test_torchvisions_models_have_no_classifier(own: Own, name: str, width: int) -> None:
    encoder = build_own(own(f"torchvision.models:{name}"), channels=3, size=32, seed=0)
    assert encoder.embed_dim == width
    published = torchvision.models.get_model(name).state_dict()
    shapes = {key: value.shape for key, value in encoder.state_dict().items()}
    assert shapes == {key: published[key].shape for key in shapes}
    assert {key.partition(".")[0] for key in published.keys() - shapes.keys()} <= {"fc", "classifier"}


def test_a_small_stem_keeps_small_images_large(own: Own) -> None:
    encoder = build_own(own("torchvision.models:resnet18", stem="small"), channels=1, size=8, seed=0)
    assert encoder.conv1.weight.shape == (64, 1, 3, 3)  # type: ignore[union-attr]
    assert embedding_width("it", encoder, 1, 16) == 512
    maps = torch.nn.Sequential(*list(encoder.children())[:-2])(torch.zeros(2, 1, 16, 16))
    assert maps.shape == (2, 512, 2, 2)
    again = build_own(own("torchvision.models:resnet18", stem="small"), channels=1, size=8, seed=0)
    assert torch.equal(encoder.conv1.weight, again.conv1.weight)  # type: ignore[union-attr, arg-type]


def test_a_model_of_timm_has_no_classifier_and_a_small_stem(own: Own) -> None:
    arguments = {"model_name": "resnet18", "stem": "small"}
    one, again = (build_own(own("timm:create_model", **arguments), channels=1, size=16, seed=0) for _ in range(2))
    assert one.embed_dim == 512
    assert one.conv1.weight.shape == (64, 1, 3, 3)  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    with pytest.raises(InputError, match="Unknown model"):
        build_own(own("timm:create_model", model_name="resnte18"), channels=1, size=16, seed=0)

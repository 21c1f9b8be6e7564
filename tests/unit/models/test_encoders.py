from __future__ import annotations

import pytest
import torch
from torch import nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import ENCODERS, build_encoder, list_encoders
from rt_scale.models.init import initialise
from rt_scale.models.norms import NORM_LAYERS, scaled
from rt_scale.spec.encoders import NORMS
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import EncoderSpec


def build(name: str, *, channels: int = 3, size: int = 32, **fields: object) -> Encoder:
    spec = EncoderSpec.model_validate({"name": name, **fields})
    with torch.device("meta"):
        encoder = build_encoder(spec, channels=channels, size=size)
    return initialise(encoder.to_empty(device="cpu"), torch.Generator().manual_seed(0))


def parameters(encoder: nn.Module) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_embeds(name: str, channels: int, norm: str) -> None:
    encoder = build(name, channels=channels, norm=norm, width=0.0625)
    embedding = encoder.eval()(torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert embedding.shape == (2, encoder.embed_dim)
    assert embedding.isfinite().all()
    assert not torch.equal(embedding[0], embedding[1])
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()) == (norm == "batch")


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_larger_images_give_embeddings_of_one_width(name: str, size: int) -> None:
    encoder = build(name, size=size, width=0.0625)
    assert encoder(torch.randn(2, 3, size, size)).shape == (2, 32)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "convnet_32_2"])
def test_the_smallest_image_is_accepted_and_a_smaller_one_refused(name: str) -> None:
    least = {"resnet18": 8, "vgg11": 32, "convnet_32_2": 2}[name]
    encoder = build(name, size=least, width=0.0625)
    assert encoder(torch.randn(2, 3, least, least)).isfinite().all()
    with pytest.raises(InputError, match=f"at least {least} x {least}"):
        build(name, size=least - 1)


def test_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match="2 channels"):
        build("resnet18", channels=2)


def test_the_demos_conv_net_has_the_prototypes_width() -> None:
    assert build("convnet_32_2", channels=1, size=8).embed_dim == 128


@pytest.mark.parametrize(
    ("size", "pools"), [(2, 0), (8, 0), (15, 0), (16, 1), (28, 1), (32, 2), (64, 3), (256, 3)]
)
def test_conv_nets_pool_while_8_pixels_remain(size: int, pools: int) -> None:
    encoder = build("convnet_4_4", size=size)
    assert sum(isinstance(module, nn.MaxPool2d) for module in encoder.modules()) == pools
    assert encoder(torch.randn(1, 3, size, size)).shape == (1, 16)


def test_every_normalisation_of_the_spec_can_be_built() -> None:
    assert set(NORM_LAYERS) == set(NORMS)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (64, 0.001, 1), (3, 1.5, 4), (5, 0.5, 2)],
)
def test_widths_are_rounded_to_at_least_one(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


@pytest.mark.parametrize(
    ("name", "embed_dim"), [("resnet18", 256), ("resnet50", 1024), ("vgg11", 256), ("convnet_32_2", 64)]
)
def test_half_width_halves_the_embedding(name: str, embed_dim: int) -> None:
    full, half = build(name), build(name, width=0.5)
    assert half.embed_dim == embed_dim == full.embed_dim // 2
    assert 0.2 < parameters(half) / parameters(full) < 0.35


def test_encoders_are_listed() -> None:
    rows = {row.name: row for row in list_encoders()}
    assert tuple(rows) == ENCODERS
    assert rows["resnet50"] == ("resnet50", 23500352, 2048, "batch", 8)
    assert rows["convnet_32_2"] == ("convnet_32_2", 32 * 28 + 32 * 289, 128, "none", 2)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_without_normalisation_train(name: str) -> None:
    """Without it activations grow with depth; the l2-bottleneck is what keeps the outputs in range."""
    encoder = build(name, size=8, norm="none", width=0.0625)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    target = torch.randn(4, encoder.embed_dim, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(4):
        loss = -nn.functional.cosine_similarity(encoder(images), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05

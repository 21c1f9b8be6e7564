from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rt_scale.models.networks import initialise
from rt_scale.models.vit import ViT, cut


def build(**given: int | bool) -> ViT:
    sizes = {
        "channels": 3, "size": 16, "patch": 8, "width": 12, "heads": 3, "layers": 2, "shared": False,
        "over_heads": False,
    }  # fmt: skip
    encoder = initialise(ViT(**(sizes | given)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(3)
    return encoder.eval()


def images(*, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changed",
    [{"patch": 4}, {"width": 24}, {"heads": 4}, {"layers": 3}, {"shared": True}, {"over_heads": True}],
    ids=str,
)
def test_every_argument_changes_the_embedding(changed: dict[str, int | bool]) -> None:
    before, after = build()(images()), build(**changed)(images())
    assert before.shape != after.shape or not torch.allclose(before, after)


def test_channels_and_size_are_the_images() -> None:
    assert build(channels=1, size=24)(images(channels=1, size=24)).shape == (2, 12)


@pytest.mark.parametrize("over_heads", [False, True])
def test_the_class_token_sees_every_patch_only_through_attention(over_heads: bool) -> None:
    """Over heads, tokens meet in the shuffle of what was mixed; after enough layers all of them have."""
    encoder = build(layers=12, shared=True, over_heads=over_heads)
    given = images()[:1].requires_grad_()
    encoder(given).square().sum().backward()
    assert (cut(given.grad, 8).abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_shared_layers_are_one_block(shared: bool) -> None:
    blocks = build(layers=5, shared=shared).blocks
    assert len(blocks) == (1 if shared else 5)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    encoder = build()
    given, swapped = images(), images().flip(2).unflatten(2, (2, 8)).flip(3).flatten(2, 3)
    assert not torch.allclose(encoder(given), encoder(swapped))
    nn.init.zeros_(encoder.tokens.positions)
    torch.testing.assert_close(encoder(given), encoder(swapped))


def test_patches_are_a_convolutions() -> None:
    convolution = nn.Conv2d(3, 5, kernel_size=8, stride=8)
    patches = cut(images().contiguous(memory_format=torch.channels_last), 8)
    ours = nn.functional.linear(patches, convolution.weight.flatten(1), convolution.bias)
    torch.testing.assert_close(ours, convolution(images()).flatten(2).transpose(1, 2))

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rt_scale.models import networks
from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import ENCODERS, build_encoder, list_encoders
from rt_scale.models.networks import build_pair, initialise
from rt_scale.spec.encoders import ENCODER_FAMILIES, parse_encoder
from rt_scale.spec.errors import InputError
from rt_scale.spec.networks import EncoderSpec
from rt_scale.spec.run import RunSpec

SHARED = ENCODER_FAMILIES["vit_shared"].names
RESIDUAL = [name for family in ("resnet", "cifar_resnet", "preresnet") for name in ENCODER_FAMILIES[family].names]


def build(name: str, *, channels: int = 3, size: int = 32, **fields: object) -> Encoder:
    spec = EncoderSpec.model_validate({"name": name, **fields})
    with torch.device("meta"):
        encoder = build_encoder(spec, channels=channels, size=size)
    return initialise(encoder.to_empty(device="cpu"), torch.Generator().manual_seed(0))


def parameters(encoder: nn.Module) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


def small(name: str) -> float:
    """A width at which the encoder is cheap, its channels are multiples of 8 and its heads whole."""
    family = parse_encoder(name).family
    widths = {"flatten": 1.0, "cifar_resnet": 0.5, "convnet": 0.25, "vit": 0.0625, "vit_shared": 0.0625}
    return widths.get(family, 0.125)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name in ENCODERS for norm in parse_encoder(name).design.norms]
)
def test_every_encoder_embeds(name: str, channels: int, norm: str) -> None:
    encoder = build(name, channels=channels, norm=norm, width=small(name))
    embedding = encoder.eval()(torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert embedding.shape == (2, encoder.embed_dim)
    assert embedding.isfinite().all()
    assert not torch.allclose(embedding[0], embedding[1], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["resnet56", "preresnet18", "vit_tiny", "vit_tiny_shared", "mlp_512_2"])
def test_every_precision_gives_the_same_but_for_rounding(name: str, dtype: torch.dtype) -> None:
    """bfloat16 is autocast over float32 parameters."""
    encoder = build(name, width=small(name)).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    single = encoder(images).double()
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", torch.bfloat16):
            other = encoder(images).double()
        torch.testing.assert_close(other, single, rtol=0.1, atol=0.1 * single.abs().mean().item())
    else:
        torch.testing.assert_close(encoder.double()(images.double()), single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_two_modules_share_a_parameter(name: str) -> None:
    encoder = build(name, width=small(name))
    named = dict(encoder.named_parameters(remove_duplicate=False))
    assert len({id(parameter) for parameter in named.values()}) == len(named)
    tensors = encoder.state_dict().values()
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("name", ENCODER_FAMILIES["vit"].names + SHARED)
def test_vits_have_twelve_layers_and_the_shared_ones_a_single_block(name: str) -> None:
    encoder = build(name, width=small(name))
    calls: list[nn.Module] = []
    blocks = encoder.get_submodule("blocks")
    for block in blocks.children():
        block.register_forward_hook(lambda module, *_: calls.append(module))
    encoder(torch.randn(1, 3, 32, 32))
    assert len(calls) == 12
    assert len(set(calls)) == (1 if name in SHARED else 12)


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_larger_images_give_embeddings_of_one_width(name: str, size: int) -> None:
    encoder = build(name, size=size, width=0.0625)
    assert encoder(torch.randn(2, 3, size, size)).shape == (2, 32)


LEAST = {
    "resnet18": 8, "resnet20": 4, "preresnet50": 8, "vgg11": 32, "convnet_32_2": 2, "vit_tiny": 8,
    "vit_tiny_shared": 16, "mlp_8_1": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", LEAST)
def test_the_smallest_image_is_accepted_and_a_smaller_one_refused(name: str) -> None:
    least = LEAST[name]
    encoder = build(name, size=least, width=0.0625)
    assert encoder(torch.randn(2, 3, least, least)).isfinite().all()
    with pytest.raises(InputError, match=f"at least {least} x {least}"):
        build(name, size=least - 1)


def test_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match="2 channels"):
        build("resnet18", channels=2)


def test_the_demos_conv_net_has_the_prototypes_width() -> None:
    assert build("convnet_32_2", channels=1, size=8).embed_dim == 128


@pytest.mark.parametrize(("size", "pools"), [(2, 0), (8, 0), (15, 0), (16, 1), (28, 1), (32, 2), (64, 3), (256, 3)])
def test_conv_nets_pool_while_8_pixels_remain(size: int, pools: int) -> None:
    encoder = build("convnet_4_4", size=size)
    assert sum(isinstance(module, nn.MaxPool2d) for module in encoder.modules()) == pools
    assert encoder(torch.randn(1, 3, size, size)).shape == (1, 16)


@pytest.mark.parametrize(
    ("name", "embed_dim"),
    [
        ("resnet18", 256),
        ("resnet50", 1024),
        ("vgg11", 256),
        ("convnet_32_2", 64),
        ("preresnet18", 256),
        ("resnet20", 32),
        ("vit_tiny", 96),
        ("mlp_512_3", 256),
    ],
)
def test_half_width_halves_the_embedding(name: str, embed_dim: int) -> None:
    full, half = build(name), build(name, width=0.5)
    assert half.embed_dim == embed_dim == full.embed_dim // 2
    assert 0.2 < parameters(half) / parameters(full) < 0.5


def test_encoders_are_listed() -> None:
    rows = {row.name: row for row in list_encoders()}
    assert tuple(rows) == ENCODERS
    assert rows["resnet50"] == ("resnet50", 23500352, 2048, "batch", 8)
    assert rows["convnet_32_2"] == ("convnet_32_2", 32 * 28 + 32 * 289, 128, "none", 2)
    assert rows["vit_tiny_shared"] == ("vit_tiny_shared", 594048, 192, "layer", 16)
    assert rows["flatten"] == ("flatten", 0, 3072, "none", 1)


def test_an_mlp_is_as_wide_and_deep_as_its_name_says() -> None:
    encoder = build("mlp_10_3", channels=1, size=8)
    shapes = [module.weight.shape for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert shapes == [(10, 64), (10, 10), (10, 10)]
    assert sum(isinstance(module, nn.ReLU) for module in encoder.modules()) == 3
    assert (encoder(torch.randn(4, 1, 8, 8)) >= 0).all()


def test_flatten_is_the_pixels() -> None:
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(build("flatten", size=4)(images), images.contiguous().view(2, 48))


@pytest.mark.parametrize("name", [*RESIDUAL, "vit_tiny", "mlp_32_3"])
def test_networks_without_feature_map_normalisation_train(name: str) -> None:
    """Activations of residual nets grow with depth; the l2-bottleneck is what keeps the outputs in range."""
    norm = "layer" if name == "vit_tiny" else "none"
    document = {
        "data": {"name": "digits"},
        "encoder": {"name": name, "norm": norm, "width": small(name)},
        "projector": {"hidden": [64], "bottleneck": 16, "out_dim": 256},
        "student": {"alpha": 1.0},
    }
    pair = build_pair(RunSpec.model_validate(document), 3, 8)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(pair.student.parameters(), lr=1e-3, weight_decay=0.0)
    teacher = pair.teacher(images).softmax(dim=1)
    losses = []
    for _ in range(12):
        loss = nn.functional.kl_div(pair.student(images).log_softmax(dim=1), teacher, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(parameter.isfinite().all() for parameter in pair.student.parameters())


@pytest.mark.parametrize(("name", "least", "most"), [("resnet34", 3, 40), ("resnet56", 300, 5000)])
def test_depth_alone_does_not_overflow(name: str, least: float, most: float) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = build(name, size=16, norm="none").eval()(images)
    assert least < embedding.square().mean().sqrt().item() < most


@pytest.mark.parametrize("module", ["plain", "vit", "encoders", "projector", "networks"])
def test_torchvision_is_imported_for_resnets_alone(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to import than a small conv net takes to train."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    runpy.run_path(str(Path(networks.__file__).with_name(f"{module}.py")))

"""Every allowed set of bottleneck parts, against the formula written out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rt_scale.models.networks import build_network, initialise
from rt_scale.models.projector import Projector
from rt_scale.spec.networks import PARTS, ProjectorSpec, parse_parts, part_flags
from rt_scale.spec.run import RunSpec


def allowed() -> list[str]:
    found = []
    for bits in itertools.product([False, True], repeat=6):
        try:
            found.append(parse_parts(dict(zip(PARTS, bits, strict=True))))
        except ValueError:
            continue
    return found


def build(**options: Any) -> Projector:
    spec = ProjectorSpec.model_validate({"hidden": (5,), "bottleneck": 4, "out_dim": 7} | options)
    return initialise(Projector(6, spec), torch.Generator().manual_seed(0), linear="torch").double()


def embeddings() -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def naive(projector: Projector, parts: str, embedding: Tensor) -> Tensor:
    """One sample and one output at a time, from the paper's appendix E.1 and figure 12's names."""
    flags, weights = part_flags(parts), projector.state_dict()
    rows = []
    for sample in embedding:
        z = nn.functional.gelu(weights["mlp.0.weight"] @ sample + weights["mlp.0.bias"])
        if flags["linear_1"]:
            columns = weights["bottleneck.weight"]
            if flags["weight_norm_1"]:
                columns = torch.stack([column / column.square().sum().sqrt() for column in columns])
            z = torch.stack([column @ z for column in columns]) + weights["bottleneck.bias"]
        if flags["feature_norm_1"]:
            z = z / z.square().sum().sqrt()
        if flags["linear_2"]:
            columns = weights["last.weight"]
            if flags["weight_norm_2"]:
                columns = torch.stack([column / column.square().sum().sqrt() for column in columns])
            z = torch.stack([column @ z for column in columns])
        if flags["feature_norm_2"]:
            z = z / z.square().sum().sqrt()
        rows.append(z)
    return torch.stack(rows)


@pytest.mark.parametrize("parts", allowed())
def test_every_set_of_parts_is_its_formula(parts: str) -> None:
    projector = build(parts=parts)
    logits = projector(embeddings())
    torch.testing.assert_close(logits, naive(projector, parts, embeddings()), rtol=1e-12, atol=1e-12)
    flags = part_flags(parts)
    assert logits.shape[1] == (7 if flags["linear_1"] or flags["linear_2"] else 5)
    features = projector.features(embeddings())
    assert features.shape[1] == projector.feature_width
    assert torch.equal(projector.logits(features, projector.directions()), logits)


@pytest.mark.parametrize("number", [1, 2])
def test_a_weight_norm_acts(number: int) -> None:
    """Scaling a normalised weight changes nothing; without the norm it does: computed and unused would fail."""
    for there in (True, False):
        flags = part_flags("-/lb/-/-/l/-") | {f"weight_norm_{number}": there}
        projector = build(parts=parse_parts(flags))
        before = projector(embeddings())
        layer = projector.bottleneck if number == 1 else projector.last
        with torch.no_grad():
            layer.weight.mul_(3.0)
        assert torch.allclose(projector(embeddings()), before, rtol=1e-12) == there


@pytest.mark.parametrize("number", [1, 2])
def test_a_feature_norm_makes_its_input_scale_free(number: int) -> None:
    for there in (True, False):
        flags = part_flags("-/lb/-/-/l/-") | {f"feature_norm_{number}": there}
        projector = build(parts=parse_parts(flags), hidden=())
        with torch.no_grad():
            projector.bottleneck.bias.zero_()
        same = torch.allclose(projector(2 * embeddings()), projector(embeddings()), rtol=1e-12)
        assert same == there


def test_activation_and_batch_norm() -> None:
    assert [type(module) for module in build(activation="relu").mlp] == [nn.Linear, nn.ReLU]
    normed = build(batch_norm=True)
    assert [type(module) for module in normed.mlp] == [nn.Linear, nn.BatchNorm1d, nn.GELU]
    assert not torch.allclose(normed(embeddings()), build()(embeddings()))


def test_initialisation_of_the_projector_leaves_the_encoder_alone() -> None:
    networks = {}
    for init in ("trunc_normal", "torch"):
        spec = RunSpec.model_validate(
            {"data": {"name": "x"}, "encoder": {"name": "convnet_8_1"}, "projector": {"hidden": [400], "init": init}}
        )
        networks[init] = build_network(spec, 1, 8, torch.Generator().manual_seed(0))
    ours, torchs = networks["trunc_normal"], networks["torch"]
    assert torch.equal(ours.encoder.features[0].weight, torchs.encoder.features[0].weight)
    assert ours.projector.mlp[0].bias.abs().max() == 0
    bound = 400**-0.5
    bottleneck = torchs.projector.bottleneck
    for tensor in (bottleneck.weight, bottleneck.bias):
        assert tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_width_that_no_layer_has_does_not_tell_runs_apart() -> None:
    def names(**fields: Any) -> str:
        base = {"data": {"name": "x"}, "encoder": {"name": "vgg11"}}
        return RunSpec.model_validate(base | {"projector": {"hidden": [64], **fields}}).name

    assert names(parts="-/-/fn/wn/l/-", bottleneck=8) == names(parts="-/-/fn/wn/l/-", bottleneck=16)
    assert names(parts="-/lb/fn/-/-/-", bottleneck=8) == names(parts="-/lb/fn/-/-/-", bottleneck=16)
    assert names(parts="-/-/fn/-/-/-", out_dim=8) == names(parts="-/-/fn/-/-/-", out_dim=16)
    assert names(bottleneck=8) != names(bottleneck=16)
    assert names(parts="-/lb/fn/wn/l/-") == names()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parts": "wn/-/fn/wn/l/-"}, "weight norm 1 needs linear 1"),
        ({"parts": "-/-/fn/wn/l/-", "hidden": []}, "hidden is empty"),
        ({"batch_norm": True, "hidden": []}, "hidden is empty"),
        ({"activation": "elu"}, "gelu"),
        ({"init": "kaiming"}, "trunc_normal"),
    ],
)
def test_meaningless_projectors_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ProjectorSpec.model_validate(fields)
    assert words in str(caught.value)

"""Outputs of layers: which, in which order, and without a trace in the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import ENCODERS, build_encoder
from rt_scale.probes.layers import LayerProbe, layer_outputs
from rt_scale.probes.statistics import layer_statistics
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.networks import EncoderSpec
from rt_scale.spec.stopping import Stopped
from tests.unit.probes.conftest import FakeSplit

NAMES = [*ENCODERS, "convnet_8_4", "mlp_8_3"]


def encoder_of(**fields: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderSpec.model_validate(fields), channels=3, size=4)


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_has_as_many_layers_as_its_description_says(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(EncoderSpec.model_validate({"name": name}), channels=3, size=32).eval()
        outputs = layer_outputs(encoder, torch.empty(2, 3, 32, 32))
    assert len(outputs) == parse_encoder(name).depth + 1
    assert outputs[-1].shape == (2, encoder.embed_dim)
    assert all(output.shape[0] == 2 and output.ndim == 2 for output in outputs)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_they_are_what_each_layer_gives() -> None:
    encoder = encoder_of(name="mlp_8_2")
    x = torch.randn(5, 3, 4, 4)
    first = encoder.get_submodule("layers.0")(x.flatten(1)).relu()
    outputs = layer_outputs(encoder, x)
    torch.testing.assert_close(outputs[0], first)
    torch.testing.assert_close(outputs[1], encoder(x))
    assert torch.equal(outputs[1], outputs[2])


def inputs(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2) / 255


def test_the_statistics_are_of_all_images_in_evaluation_mode(test: FakeSplit) -> None:
    encoder = encoder_of(name="convnet_8_2", norm="batch").train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = LayerProbe(test, inputs).network(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    outputs = layer_outputs(encoder.eval(), inputs(test.images))
    for layer, output in zip(("01", "02", "embedding"), outputs, strict=True):
        expected = layer_statistics(output, test.labels)
        assert {name: found[f"{name}_{layer}"] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert len(found) == 12
    assert LayerProbe(test, inputs).input() == layer_statistics(inputs(test.images).flatten(1), test.labels)


def test_precision_is_that_of_the_network(test: FakeSplit) -> None:
    encoder = encoder_of(name="convnet_8_2")
    single, half = (LayerProbe(test, inputs, precision=name).network(encoder) for name in ("float32", "bf16"))
    assert single["cosine_01"] != half["cosine_01"]
    assert single["cosine_01"] == pytest.approx(half["cosine_01"], rel=1e-2)


def test_a_stop_request_ends_it(test: FakeSplit) -> None:
    probe = LayerProbe(test, inputs, stop=lambda: True)
    with pytest.raises(Stopped):
        probe.network(encoder_of(name="convnet_8_2"))
    with pytest.raises(Stopped):
        probe.input()

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.probes.features import embed, evaluation_mode, standardise
from rt_scale.probes.statistics import mean_and_deviation


def to_inputs(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())


def test_embeddings_are_the_encoders_in_evaluation_mode_in_index_order(train: Any) -> None:
    model = encoder()
    features = embed(model, train, to_inputs)
    with torch.no_grad():
        expected = model.eval()(to_inputs(train.images))
    torch.testing.assert_close(features.x, expected)
    assert torch.equal(features.y, train.labels)
    assert (features.x.dtype, features.y.dtype) == (torch.float32, torch.int64)
    assert not features.x.requires_grad


def test_embedding_changes_neither_statistics_nor_modes(train: Any) -> None:
    model = encoder().train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embed(model, train, to_inputs)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_modes_are_restored_after_an_error() -> None:
    model = encoder().train()

    def fail() -> None:
        with evaluation_mode(model):
            assert not model.training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all(module.training for module in model.modules())


def test_embeddings_of_a_float64_network_are_float32(train: Any) -> None:
    features = embed(encoder().double(), train, lambda images: to_inputs(images).double())
    assert features.x.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "tf32", "float64", "bf16"])
def test_embeddings_are_computed_in_the_precision_of_the_spec(train: Any, precision: str) -> None:
    model = encoder().eval()
    expected = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for batch in train.sequential():
            expected.append(model(to_inputs(batch.images)).float())
    features = embed(model, train, to_inputs, precision=precision)
    assert features.x.dtype == torch.float32
    assert torch.equal(features.x, torch.cat(expected))
    assert torch.equal(features.x, embed(model, train, to_inputs).x) == (precision != "bf16")


def test_inputs_are_made_in_full_whatever_the_precision(train: Any) -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return to_inputs(images)

    identity = embed(nn.Flatten(), train, watched, precision="bf16")
    assert not any(seen)
    assert torch.equal(identity.x, embed(nn.Flatten(), train, to_inputs).x)


def test_pixels_are_the_flattened_inputs(train: Any) -> None:
    features = embed(nn.Flatten(), train, to_inputs)
    assert torch.equal(features.x, to_inputs(train.images).flatten(1))
    assert torch.equal(features.y, train.labels)


def test_a_split_must_yield_what_it_names(train: Any) -> None:
    class Short(type(train)):  # type: ignore[misc]
        def sequential(self) -> Iterator[Any]:
            yield next(super().sequential())

    with pytest.raises(ValueError, match="60 images yielded 7"):
        embed(encoder(), Short(train.images, train.labels), to_inputs)

    class Silent(type(train)):  # type: ignore[misc]
        def sequential(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(ValueError, match="60 images yielded 0"):
        embed(encoder(), Silent(train.images, train.labels), to_inputs)


def test_standardised_training_features_have_mean_0_and_deviation_1() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 6, generator=generator) * 4 + 9 for n in (50, 20))
    kept = train.clone(), test.clone()
    train_z, test_z = standardise(train, test)
    torch.testing.assert_close(train_z.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(train_z.std(dim=0, correction=0), torch.ones(6))
    expected = (test.double() - train.double().mean(0)) / train.double().std(0, correction=0)
    torch.testing.assert_close(test_z.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(train, kept[0])
    assert torch.equal(test, kept[1])


def test_deviations_are_exact_far_from_the_origin() -> None:
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)) / 100 + 1000
    mean, deviation = mean_and_deviation(x)
    expected = x.double().std(dim=0, correction=0)
    torch.testing.assert_close(deviation.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(mean.double(), x.double().mean(dim=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 123.456, 1e-30])
def test_constant_features_are_divided_by_1(value: float) -> None:
    train, test = torch.full((1001, 1), value), torch.full((3, 1), value + 2)
    train_z, test_z = standardise(train, test)
    torch.testing.assert_close(train_z, torch.zeros(1001, 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(test_z, torch.full((3, 1), 2.0), rtol=0, atol=1e-4)


def test_features_whose_variance_underflows_stay_finite() -> None:
    train_z, _ = standardise(torch.tensor([[0.0], [1e-30]]), torch.zeros(1, 1))
    assert train_z.isfinite().all()

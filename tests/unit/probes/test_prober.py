from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.probes.convex import fit_logistic, fit_ridge
from rt_scale.probes.evaluator import Embedded, Prober, screen
from rt_scale.probes.features import Features, embed, standardise
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.linear import LinearProbes, Problem
from rt_scale.spec.errors import InputError
from rt_scale.spec.training import ProbeSpec


def to_inputs(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def prober(train: Any, test: Any, **fields: Any) -> Prober:
    spec = ProbeSpec.model_validate({"knn": 5, "epochs": 3, "batch_size": 16, "lr": 0.01} | fields)
    return Prober(spec, train, test, to_inputs, classes=3)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["linear", "knn", "linear_standardized", "knn_standardized"]),
        ({"standardized": False}, ["linear", "knn"]),
        ({"linear": False}, ["knn", "knn_standardized"]),
        ({"knn": 0, "standardized": False}, ["linear"]),
        ({"linear": False, "knn": 0, "logistic": True}, ["logistic", "logistic_standardized"]),
        ({"ridge": True, "standardized": False}, ["linear", "knn", "ridge"]),
    ],
)
def test_what_the_spec_asks_for_is_measured(train: Any, test: Any, fields: dict[str, Any], names: list[str]) -> None:
    values = prober(train, test, **fields).probe_input(0)
    assert list(values) == names
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values.values())


def test_values_are_those_of_the_parts(train: Any, test: Any) -> None:
    model = encoder()
    fit, held = embed(model, train, to_inputs), embed(model, test, to_inputs)
    fit_z, held_z = standardise(fit.x, held.x)
    recipe = {"epochs": 3, "batch_size": 16, "lr": 0.01}
    raw, standardised = LinearProbes(3, standardized=True, **recipe).fit([Problem(*fit, 11)])[0]
    assert prober(train, test).probe_network(model, 11) == {
        "linear": raw.accuracy(*held),
        "knn": knn_accuracy(*fit, *held, k=5, classes=3),
        "linear_standardized": standardised.accuracy(held_z, held.y),
        "knn_standardized": knn_accuracy(fit_z, fit.y, held_z, held.y, k=5, classes=3),
    }


def test_screens_are_those_of_the_parts(train: Any, test: Any) -> None:
    model = encoder()
    fit, held = embed(model, train, to_inputs), embed(model, test, to_inputs)
    fit_z, held_z = standardise(fit.x, held.x)
    scaled = Features(fit_z, fit.y), Features(held_z, held.y)
    fields = {"linear": False, "knn": 0, "logistic": True, "ridge": True, "l2": 0.3}
    assert prober(train, test, **fields).probe_network(model, 11) == {
        "logistic": screen(fit_logistic, fit, held, classes=3, l2=0.3),
        "ridge": screen(fit_ridge, fit, held, classes=3, l2=0.3),
        "logistic_standardized": screen(fit_logistic, *scaled, classes=3, l2=0.3),
        "ridge_standardized": screen(fit_ridge, *scaled, classes=3, l2=0.3),
    }


def test_several_networks_are_probed_as_one_alone_would_be(train: Any, test: Any) -> None:
    # Too short a training to forget the initial draw.
    ours = prober(train, test, epochs=1, lr=1e-4)
    others = [nn.Sequential(nn.Flatten(), nn.Linear(48, 20, bias=False)) for _ in range(2)]
    with torch.no_grad():
        for number, other in enumerate(others):
            other[1].weight.copy_(torch.randn(20, 48, generator=torch.Generator().manual_seed(number)))
    embedded = [ours.embed_network(other, seed) for other in others for seed in (0, 0, 5)]
    together = ours.probe_features(embedded)
    assert together == [ours.probe_features([each])[0] for each in embedded]
    assert together[0] == together[1]
    assert len({tuple(values.items()) for values in together}) == 4


def test_embeddings_are_the_networks_own(train: Any, test: Any) -> None:
    model = encoder()
    embedded = prober(train, test).embed_network(model, 7)
    assert embedded.seed == 7
    for ours, split in zip(embedded[:2], (train, test), strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, embed(model, split, to_inputs), strict=True))


def test_the_input_is_probed_as_pixels(train: Any, test: Any) -> None:
    ours = prober(train, test)
    features = embed(nn.Flatten(), train, to_inputs), embed(nn.Flatten(), test, to_inputs)
    assert [ours.probe_input(3)] == ours.probe_features([Embedded(*features, 3)])


def test_networks_are_embedded_in_the_precision_and_pixels_are_as_ever(train: Any, test: Any) -> None:
    model, exact = encoder(), prober(train, test)
    rounded = Prober(exact.spec, train, test, to_inputs, classes=3, precision="bf16")
    embedded = rounded.embed_network(model, 7)
    for ours, split in zip(embedded[:2], (train, test), strict=True):
        assert torch.equal(ours.x, embed(model, split, to_inputs, precision="bf16").x)
        assert not torch.equal(ours.x, embed(model, split, to_inputs).x)
    assert torch.equal(rounded.embed_test(model).x, embedded.test.x)
    assert torch.equal(rounded.embed_test(model).y, test.labels)
    assert rounded.probe_network(model, 7) == exact.probe_features([embedded])[0]
    assert rounded.probe_input(3) == exact.probe_input(3)


def test_probing_leaves_the_network_as_it_was(train: Any, test: Any) -> None:
    model = encoder().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    prober(train, test).probe_network(model, 0)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_the_seed_is_the_linear_probes_alone(train: Any, test: Any) -> None:
    # Features without information: what the classifier says is its initialisation's.
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    fit, held = Features(noise, train.labels), Features(noise[:31], test.labels)
    ours = prober(train, test, epochs=1, standardized=False)
    measured = ours.probe_features([Embedded(fit, held, seed) for seed in (0, 0, 1, 2, 3)])
    assert measured[0] == measured[1]
    assert len({values["linear"] for values in measured}) > 1
    assert len({values["knn"] for values in measured}) == 1


def test_the_number_of_classes_reaches_the_probes(train: Any, test: Any) -> None:
    spec = ProbeSpec.model_validate({"knn": 5})
    with pytest.raises(RuntimeError, match="out of bounds"):
        Prober(spec, train, test, to_inputs, classes=2).probe_input(0)


def test_more_neighbours_than_images_are_refused_before_any_work(train: Any, test: Any) -> None:
    with pytest.raises(InputError, match="61 nearest neighbours were asked for among 60"):
        prober(train, test, knn=61)

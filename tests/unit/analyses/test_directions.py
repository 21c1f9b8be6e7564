"""Random directions whose filters have origin's norms, principal components of a path, and places seen from a plane."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from rt_scale.analyses import directions
from rt_scale.analyses.directions import filter_normalised, places, principal
from rt_scale.spec.errors import InputError

NAMES = ["convolution", "linear", "bias"]


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"convolution": (4, 3, 2, 2), "linear": (5, 7), "bias": (5,), "running_var": (5,)}
    found = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return found | {"seen": torch.tensor(seed)}


def vector(weights: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([weights[name].flatten() for name in NAMES]).numpy()


def test_filters_of_a_random_direction_have_the_norms_of_origins() -> None:
    origin = drawn(0)
    found = filter_normalised(origin, NAMES, torch.Generator().manual_seed(1))
    for name in ("convolution", "linear"):
        for mine, its in zip(found[name] - origin[name], origin[name], strict=True):
            assert float(mine.norm()) == pytest.approx(float(its.norm()))
    unit = (found["linear"] - origin["linear"]) / origin["linear"].norm(dim=1, keepdim=True)
    assert abs(float(torch.cosine_similarity(unit, origin["linear"]).mean())) < 0.9
    for name in ("bias", "running_var", "seen"):
        assert found[name] is origin[name]


def test_a_random_direction_follows_its_seed_and_ignores_the_scale_of_filters() -> None:
    origin = drawn(0)
    one, same, other = (
        filter_normalised(origin, NAMES, torch.Generator().manual_seed(seed))["linear"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    scaled = filter_normalised(origin | {"linear": 3 * origin["linear"]}, NAMES, torch.Generator().manual_seed(1))
    assert torch.allclose(scaled["linear"], 3 * one)
    zero = {"linear": torch.zeros(2, 3)}
    assert torch.equal(filter_normalised(zero, ["linear"], torch.Generator())["linear"], zero["linear"])


def test_principal_components_are_those_of_the_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    origin, *path = (drawn(seed) for seed in range(6))
    rows = np.stack([vector(weights) - vector(origin) for weights in path])
    _, _, components = np.linalg.svd(rows)
    for piece in (3, 1 << 20):
        monkeypatch.setattr(directions, "_PIECE", piece)
        for number, found in enumerate(principal(origin, path, NAMES, 3)):
            direction, along = vector(found) - vector(origin), rows @ components[number]  # type: ignore[arg-type]
            furthest = along[np.abs(along).argmax()]
            assert direction == pytest.approx(furthest * components[number])
    shares = np.linalg.lstsq(rows.T, direction, rcond=None)[0]
    statistics = sum(
        share * (each["running_var"] - origin["running_var"]) for share, each in zip(shares, path, strict=True)
    )
    assert torch.allclose(found["running_var"], origin["running_var"] + statistics)
    assert torch.equal(found["seen"], origin["seen"])


def test_a_path_with_too_few_directions_is_refused() -> None:
    origin, other = drawn(0), drawn(1)
    with pytest.raises(InputError, match=r"span 1 dimension.*2 were asked for"):
        principal(origin, [origin, other, other], NAMES, 2)
    with pytest.raises(InputError, match="span 0 dimensions"):
        principal(origin, [origin, origin], NAMES, 1)


@pytest.mark.parametrize("axes", [1, 2])
def test_places_are_projections(axes: int) -> None:
    networks, path = [drawn(seed) for seed in range(1 + axes)], [drawn(seed) for seed in (7, 8, 9)]
    found = places(networks, path, NAMES)
    origin = vector(networks[0])
    basis = np.stack([vector(each) - origin for each in networks[1:]], axis=1)
    for number, weights in enumerate(path):
        difference = vector(weights) - origin
        at = np.linalg.lstsq(basis, difference, rcond=None)[0]
        assert found.at[number] == pytest.approx(at)
        assert found.off[number] == pytest.approx(np.linalg.norm(difference - basis @ at))
    steps = [np.linalg.norm(vector(b) - vector(a)) for a, b in itertools.pairwise(path)]
    assert found.length == pytest.approx([0, steps[0], steps[0] + steps[1]])


def test_networks_of_the_plane_lie_on_it() -> None:
    networks = [drawn(seed) for seed in range(3)]
    found = places(networks, networks, NAMES)
    assert found.at == pytest.approx(np.array([[0, 0], [1, 0], [0, 1]]))
    assert found.off == pytest.approx([0, 0, 0], abs=1e-6)

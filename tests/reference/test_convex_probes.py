"""Logistic and ridge probes against scikit-learn and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

from rt_scale.probes.convex import fit_logistic, fit_ridge
from rt_scale.probes.evaluator import screen
from rt_scale.probes.features import Features
from rt_scale.probes.linear import Classifier
from rt_scale.probes.statistics import centre_and_scale, gram, smaller_gram


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(x).float() / 16, torch.from_numpy(y)
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def accuracy(fit: Any, x: Tensor, y: Tensor, held: Tensor, held_y: Tensor, l2: float = 1e-3) -> float:
    return screen(fit, Features(x, y), Features(held, held_y), classes=10, l2=l2)


def slope(fitted: Classifier, x: Tensor, y: Tensor, l2: float) -> float:
    """The largest partial derivative of the logistic objective, in float64."""
    weight, bias = fitted.weight.double(), fitted.bias.double()
    errors = torch.softmax(x.double() @ weight.T + bias, dim=1) - torch.nn.functional.one_hot(y, len(bias))
    gradient = torch.cat([(errors.T @ x.double() / len(x) + l2 * weight).flatten(), errors.mean(dim=0)])
    return gradient.abs().max().item()


def scaled_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    train_x, train_y, test_x, test_y = digits()
    return (*centre_and_scale(train_x, test_x), train_y, test_y)


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_logistic_regression_is_scikit_learns(l2: float) -> None:
    x, held, y, held_y = scaled_digits()
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=10_000).fit(x.double().numpy(), y.numpy())
    exact = fit_logistic(x.double(), y, classes=10, l2=l2, tolerance=1e-9)
    # Biases are not penalised and so known up to one number that all classes share.
    bias = exact.bias - exact.bias.mean()
    torch.testing.assert_close(exact.weight, torch.from_numpy(theirs.coef_), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias, torch.from_numpy(theirs.intercept_), rtol=1e-3, atol=1e-3)
    # As the probe runs it: float32, and its own tolerance.
    fitted = fit_logistic(x, y, classes=10, l2=l2)
    probabilities = torch.softmax(fitted.logits(held), dim=1).numpy()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(held.double().numpy()), atol=0.02)
    measured = accuracy(fit_logistic, *digits(), l2=l2)
    assert measured == pytest.approx(theirs.score(held.double().numpy(), held_y.numpy()), abs=1.5 / len(held_y))


def test_logistic_regression_converges() -> None:
    x, _, y, _ = scaled_digits()
    assert slope(fit_logistic(x, y, classes=10), x, y, 1e-3) <= 3.2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convergence_goes_as_far_as_it_is_asked_to(dtype: torch.dtype) -> None:
    x, _, y, _ = scaled_digits()
    x, y = x[:300].to(dtype), y[:300]
    loose, tight = (fit_logistic(x, y, classes=10, l2=1e-2, tolerance=each) for each in (1e-2, 1e-4))
    assert 1e-4 < slope(loose, x, y, 1e-2) <= 1.01e-2
    assert slope(tight, x, y, 1e-2) <= 1.01e-4
    assert slope(fit_logistic(x, y, classes=10, l2=1e-2, most_iterations=3), x, y, 1e-2) > 1e-2


def test_logistic_regression_on_separable_classes_ends() -> None:
    """Without a penalty the weights would grow for ever."""
    x, y = torch.tensor([[-1.0], [-0.5], [0.5], [1.0]]), torch.tensor([0, 0, 1, 1])
    fitted = fit_logistic(x, y, classes=2)
    assert slope(fitted, x, y, 1e-3) <= 3.2e-5
    assert fitted.logits(x).argmax(dim=1).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("images", [1437, 40])
def test_ridge_is_scikit_learns(l2: float, images: int) -> None:
    """Also with fewer images than dimensions, where the dual system is solved."""
    train_x, train_y, held, held_y = digits()
    x, z = centre_and_scale(train_x[:images], held)
    y = train_y[:images]
    theirs = RidgeClassifier(alpha=l2 * images, solver="svd").fit(x.double().numpy(), y.numpy())
    ours = fit_ridge(x, y, classes=10, l2=l2)
    torch.testing.assert_close(ours.weight.double(), torch.from_numpy(theirs.coef_) / 2, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.bias.double(), (torch.from_numpy(theirs.intercept_) + 1) / 2, rtol=1e-4, atol=1e-5)
    measured = accuracy(fit_ridge, train_x[:images], y, held, held_y, l2)
    assert measured == pytest.approx(theirs.score(z.double().numpy(), held_y.numpy()), abs=1.5 / len(held_y))


def test_ridge_is_the_normal_equations() -> None:
    x = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    y = torch.tensor([0, 1, 1])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = torch.linalg.inv(x.T @ x / 3 + 0.5 * torch.eye(2)) @ x.T @ targets / 3
    ours = fit_ridge(x, y, classes=2, l2=0.5)
    torch.testing.assert_close(ours.weight, expected.T)
    torch.testing.assert_close(ours.bias, torch.tensor([1 / 3, 2 / 3]))


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge])
@pytest.mark.parametrize(("factor", "offset"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 3.0)])
def test_magnitude_and_origin_of_embeddings_do_not_matter(fit: Any, factor: float, offset: float) -> None:
    train_x, train_y, test_x, test_y = digits()
    plain = accuracy(fit, train_x, train_y, test_x, test_y)
    moved = accuracy(fit, train_x * factor + offset, train_y, test_x * factor + offset, test_y)
    assert moved == pytest.approx(plain, abs=1.5 / len(test_y))


def test_centring_and_scaling() -> None:
    train = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    z, held = centre_and_scale(train, torch.tensor([[3.0, 4.0]]))
    scale = (8 / 6) ** 0.5
    torch.testing.assert_close(z, torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]]) / scale)
    torch.testing.assert_close(held, torch.tensor([[0.0, 2.0]]) / scale)
    constant, held = centre_and_scale(torch.full((4, 2), 7.0), torch.full((1, 2), 9.0))
    assert torch.equal(constant, torch.zeros(4, 2))
    assert torch.equal(held, torch.full((1, 2), 2.0))
    assert train[0, 0] == 1


def test_second_moments_are_exact_where_float32_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(301, 5, generator=generator), torch.randn(301, 3, generator=generator) + 1e4
    expected = torch.einsum("nd,ne->de", a.double(), b.double())
    assert (a.T @ b - expected).abs().max() > 1e-4
    for tile in (1 << 22, 64):
        monkeypatch.setattr("rt_scale.probes.statistics._TILE_ELEMENTS", tile)
        torch.testing.assert_close(gram(a, b), expected, rtol=1e-12, atol=1e-8)
    assert smaller_gram(a).shape == (5, 5)
    assert smaller_gram(a.T).shape == (5, 5)
